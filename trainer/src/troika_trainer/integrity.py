"""Whether a directory still holds what was written: sizes and checksums of all its files."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .place import cores

Identity = tuple[int, str]
"""Size in bytes and SHA-256 of a file."""

SUMS = "sums.json"
READ_AT_ONCE = 16 << 20
"""Bytes between two signs of progress."""
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""What is not where it should be is damage; any other error says nothing of what is on the disk."""


def _nobody_waits() -> None:
    """For files that are read in a moment."""


def identity(path: Path, alive: Callable[[], None] = _nobody_waits) -> Identity:
    """Size and SHA-256 of a file; `alive` is called as it is read."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(READ_AT_ONCE):
            digest.update(piece)
            size += len(piece)
            alive()
    return size, digest.hexdigest()


def problem(
    path: Path, expected: Identity, alive: Callable[[], None] = _nobody_waits
) -> str | None:
    """What is wrong with a file that should be so, in words that go after its name.

    Raises:
        OSError: that cannot be told, for the storage fails.
    """
    if found := wrong_size(path, expected):
        return found
    try:
        same = identity(path, alive) == tuple(expected)
    except MISSING as error:
        return f"is missing: {error.strerror}"
    return None if same else "is damaged: its SHA-256 has changed"


def wrong_size(path: Path, expected: Identity) -> str | None:
    """The same without reading it."""
    try:
        size = path.stat().st_size
    except MISSING as error:
        return f"is missing: {error.strerror}"
    return None if size == expected[0] else f"is damaged: {size} bytes instead of {expected[0]}"


def seal(directory: Path, alive: Callable[[], None] = _nobody_waits) -> None:
    """Note what every file below a directory is, and put all of it on the disk.

    Args:
        directory: It gets one file more, with the notes.
        alive: Called as its files are read.
    """
    sums = {str(path.relative_to(directory)): identity(path, alive) for path in _files(directory)}
    (directory / SUMS).write_text(json.dumps(sums, indent=1))
    for path in (directory / SUMS, *_files(directory)):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for folder in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
        sync_directory(folder)


def broken(directory: Path, *, thorough: bool, alive: Callable[[], None]) -> str | None:
    """What is wrong with a sealed directory, naming the file; None where nothing is.

    One that cannot be read is as good as broken: it can be made again.

    Args:
        directory: As `seal` left it.
        thorough: Whether to read every file, on all cores, and not only to ask for its size.
        alive: Called as files are read, from any thread.
    """
    try:
        sums: dict[str, Identity] = json.loads((directory / SUMS).read_text())
    except (OSError, ValueError) as error:
        return f"{directory / SUMS} cannot be read: {error}"

    def problem_of(name: str) -> str | None:
        path, expected = directory / name, sums[name]
        try:
            found = problem(path, expected, alive) if thorough else wrong_size(path, expected)
        except OSError as error:
            found = f"cannot be read: {error.strerror}"
        return f"{path} {found}" if found else None

    with ThreadPoolExecutor(cores()) as pool:
        return next(filter(None, list(pool.map(problem_of, sorted(sums)))), None)


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
