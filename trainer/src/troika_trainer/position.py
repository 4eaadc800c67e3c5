"""Where a stream goes on, and what must not have changed for that to be the same stream.

A resume reads again from where a window begins, and uses of it what was not used yet. So all rows
up to the end of that window must be what they were; what comes after it nobody has read, and may
be corrected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Any

from .rows import DataFile, Row
from .sources import Sources


@dataclass(frozen=True)
class Position:
    """Where a window begins."""

    window: int
    lap: int
    """How often all files were read before."""
    path: str
    line: int
    """Rows of the file up to this line belong to earlier windows."""
    skip: int
    """Tokens of the rows after it that do, too."""
    sources: str
    """Fingerprint of the files. While it is the same, nothing else is looked at."""
    rows: str = ""
    """Digest of the file's rows up to the line."""
    tokens: str = ""
    """Digest of the tokens that are skipped."""


@dataclass(frozen=True)
class Read:
    """How far the files were read, and what was there."""

    end: Position
    """Where the window ends that was used last."""
    names: str
    """Fingerprint of the files' names: with others the order of the files is another."""
    behind: str | None
    """Fingerprint of the files that were read to their end in this lap; None where the window goes
    on into the next lap, and so all of them were."""
    tokenizer: str


def chained(before: str, rows: Sequence[Row]) -> str:
    """The digest of a file's rows up to the last of these, from that of the rows before them."""
    content = repr([(row.line, row.values) for row in rows])
    return digest(f"{before}{content}".encode())


def digest(content: bytes) -> str:
    """A short name for some bytes."""
    return blake2b(content, digest_size=10).hexdigest()


def mark(sources: Sources) -> str:
    """Names and sizes, not times: a corpus may be copied to another volume."""
    return _fingerprint([file.identity[:2] for file in sources.train], sources.fraction)


def names(sources: Sources) -> str:
    """The same whatever is in the files."""
    return _fingerprint([file.path for file in sources.train], sources.fraction)


def behind(order: Sequence[DataFile], end: Position) -> str:
    """Of the files before that of a position.

    Args:
        order: All files, as this lap reads them.
        end: Somewhere in it.
    """
    read = [file.path for file in order].index(end.path)
    return _fingerprint([file.identity[:2] for file in order[:read]])


def _fingerprint(*parts: Any) -> str:
    return sha256(repr(parts).encode()).hexdigest()[:20]
