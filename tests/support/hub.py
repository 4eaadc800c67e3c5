"""A mirror of the Hugging Face hub on this machine: real HTTP, the models of a folder."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import override

from .serving import Handler, serving

COMMIT = "5" * 40
"""The only revision of every model here."""


class _Handler(Handler):
    """What huggingface_hub asks of a server: facts on a model, and its files by revision."""

    def __init__(self, *args: Any, root: Path, asked: list[str]) -> None:
        self.root, self.asked = root, asked
        super().__init__(*args)

    @override
    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        self.asked.append(f"{self.command} {path}")
        parts = path.removeprefix("api/models/").split("/")
        repository = self.root / "/".join(parts[:2])
        if not repository.is_dir():
            self._refuse("RepoNotFound")
        elif not path.startswith("api/"):
            file = repository.joinpath(*parts[4:])  # OWNER/NAME/resolve/REVISION/FILE
            if file.is_file():
                self._send(file.read_bytes(), with_body=with_body)
            else:
                self._refuse("EntryNotFound")
        elif "tree" in parts:
            self._refuse("EntryNotFound")  # no folder has folders
        else:
            names = [{"rfilename": file.name} for file in sorted(repository.iterdir())]
            facts = {"id": "/".join(parts[:2]), "sha": COMMIT, "siblings": names, "tags": []}
            self._send(json.dumps(facts).encode(), with_body=with_body)

    def _send(self, body: bytes, *, with_body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()


@contextmanager
def mirror(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the models in `root`/OWNER/NAME.

    Yields:
        The address for HF_ENDPOINT, and what was asked so far.
    """
    asked: list[str] = []
    with serving(partial(_Handler, root=root, asked=asked)) as address:
        yield address, asked
