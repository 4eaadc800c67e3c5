"""A web server on this machine for as long as a test needs it: real HTTP."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from typing_extensions import override


class Handler(BaseHTTPRequestHandler):
    """Answers GET, and HEAD with the same but for the body; says nothing of it."""

    protocol_version = "HTTP/1.1"

    def answer(self, *, with_body: bool) -> None:
        """One request, for subclasses."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """With the body."""
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        """Without it."""
        self.answer(with_body=False)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(handler: Callable[..., Any]) -> Iterator[str]:
    """Serve; gives the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
