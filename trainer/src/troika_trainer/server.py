"""The HTTP side of telemetry: `GET /metrics` and `GET /status`. Imports no torch."""

import logging
import os
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from typing_extensions import override

from troika_api import contract

log = logging.getLogger(__name__)


class _Server(ThreadingHTTPServer):
    """Listens on every address, IPv6 too where the machine has it."""

    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    @override
    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def serve(registry: CollectorRegistry, status: Callable[[], str]) -> int | None:
    """Answer in a thread of its own.

    Returns:
        The port, or None where it is taken: a run is worth more than its metrics.
    """
    port = int(os.environ.get(contract.ENV_METRICS_PORT) or contract.PORT_METRICS)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/status":
                self._answer(HTTPStatus.OK, "application/json", status().encode())
            elif self.path.startswith("/metrics"):
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(HTTPStatus.OK, content_type, encode(registry))
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"/metrics or /status\n")

        def _answer(self, code: HTTPStatus, content_type: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Scrapes are not news."""

    try:
        server = _Server(("", port), Handler)
    except OSError as error:
        log.warning("no /metrics and /status: port %d: %s", port, error.strerror)
        return None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return int(server.server_address[1])
