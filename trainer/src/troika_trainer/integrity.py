"""Whether a directory still holds what was written: sizes and checksums of all its files."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

Identity = tuple[int, str]
"""Size in bytes and SHA-256 of a file."""

SUMS = "sums.json"
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What is not where it should be is damage; any other error says nothing of what is on the disk."""


def identity(path: Path) -> Identity:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path.stat().st_size, digest


def problem(path: Path, expected: Identity) -> str | None:
    """What is wrong with a file that should be so, in words that go after its name.

    Raises:
        OSError: that cannot be told, for the storage fails.
    """
    try:
        size = path.stat().st_size
        if size != expected[0]:
            return f"is damaged: {size} bytes instead of {expected[0]}"
        return None if identity(path) == tuple(expected) else "is damaged: its SHA-256 has changed"
    except MISSING as error:
        return f"is missing: {error.strerror}"


def seal(directory: Path) -> None:
    """Note what every file below a directory is, and put all of it on the disk."""
    sums = {str(path.relative_to(directory)): identity(path) for path in _files(directory)}
    (directory / SUMS).write_text(json.dumps(sums, indent=1))
    for path in (directory / SUMS, *_files(directory)):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for folder in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
        sync_directory(folder)


def broken(directory: Path) -> str | None:
    """What is wrong with a sealed directory, naming the file; None where nothing is.

    One that cannot be read is as good as broken: it can be made again.
    """
    path = directory / SUMS
    try:
        sums: dict[str, Identity] = json.loads(path.read_text())
        for name, expected in sorted(sums.items()):
            path = directory / name
            if found := problem(path, expected):
                return f"{path} {found}"
    except (OSError, ValueError) as error:
        return f"{path} cannot be read: {error}"
    return None


def write_durably(path: Path, content: bytes) -> None:
    """Write a small file that is whole or not there, even after a power cut or on a full disk."""
    staged = path.with_name(path.name + ".tmp")
    try:
        with staged.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory last."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != SUMS)
