"""An S3 bucket on this machine: real HTTP, the files of a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from typing_extensions import override

from .serving import Handler, serving

LIST = (
    '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated>{}</ListBucketResult>'
)
REFUSAL = '<?xml version="1.0"?><Error><Code>{0}</Code><Message>{0}</Message></Error>'


class _Handler(Handler):
    """What a reader asks of S3: a list by prefix, the size of an object, and parts of it."""

    def __init__(self, *args: Any, root: Path, key: str) -> None:
        self.root, self.key = root, key
        super().__init__(*args)

    @override
    def answer(self, *, with_body: bool) -> None:
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).strip("/").partition("/")
        if f"Credential={self.key}/" not in self.headers.get("Authorization", ""):
            self._send(403, REFUSAL.format("AccessDenied").encode(), with_body=with_body)
        elif not key:
            asked = {name: values[0] for name, values in parse_qs(url.query).items()}
            self._send(200, self._listed(self.root / bucket, asked).encode(), with_body=with_body)
        elif (self.root / bucket / key).is_file():
            self._object((self.root / bucket / key).read_bytes(), with_body=with_body)
        else:
            self._send(404, REFUSAL.format("NoSuchKey").encode(), with_body=with_body)

    def _listed(self, bucket: Path, asked: dict[str, str]) -> str:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter")
        files = sorted(path for path in bucket.rglob("*") if path.is_file())
        sizes = {str(path.relative_to(bucket)): path.stat().st_size for path in files}
        found, folders = [], set()
        for name, size in sizes.items():
            rest = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                found.append(
                    f"<Contents><Key>{escape(name)}</Key><Size>{size}</Size>"
                    "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                )
        found += [
            f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            for folder in sorted(folders)
        ]
        return LIST.format(f"<KeyCount>{len(found)}</KeyCount>" + "".join(found))

    def _object(self, body: bytes, *, with_body: bool) -> None:
        part = self.headers.get("Range")
        if part is None:
            self._send(200, body, with_body=with_body)
            return
        first, _, last = part.removeprefix("bytes=").partition("-")
        begin, end = int(first), min(int(last or len(body) - 1), len(body) - 1)
        extra = {"Content-Range": f"bytes {begin}-{end}/{len(body)}"}
        self._send(206, body[begin : end + 1], with_body=with_body, **extra)

    def _send(self, code: int, body: bytes, *, with_body: bool, **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@contextmanager
def served(root: Path, *, key: str) -> Iterator[str]:
    """Serve the folders in `root` as buckets to who has the key; gives the endpoint."""
    with serving(partial(_Handler, root=root, key=key)) as address:
        yield address
