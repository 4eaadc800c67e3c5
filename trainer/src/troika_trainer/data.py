"""From files to examples on disk, once: the first rank tokenizes, everyone else reuses.

The cache directory must be on storage that all ranks share; its name is a fingerprint of what
made it, so other data, another tokenizer or another column is another directory. Other jobs may
share it: a lock keeps two of them from doing the same work, and where the storage has no locks
they do it twice, side by side, and the first to finish wins.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from . import integrity, shards
from .encode import Alive, Portion, counted, encode_all
from .errors import StorageError
from .place import cores
from .shards import ROW, Store
from .sources import Sources
from .tasks import Task

log = logging.getLogger(__name__)

FORMAT_VERSION = 4
"""Part of every fingerprint: raise it when the same input is to give other examples,
or other facts about them."""

SECONDS_BETWEEN_TRIES = 0.5
NO_LOCKS_HERE = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def fingerprint(*parts: Any) -> str:
    """A short name for what was made from these parts."""
    text = json.dumps([FORMAT_VERSION, *parts], sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()[:20]


def make_directory(
    directory: Path, fill: Callable[[Path], None], alive: Alive, *, thorough: bool = True
) -> None:
    """Fill a directory that appears whole or not at all; a sound one that is there stays.

    A damaged one is named in a warning and made anew.

    Args:
        directory: What is to be there.
        fill: Writes the content into another directory, which is then renamed.
        alive: Called while files are read, or another job makes the same.
        thorough: Whether to read all of one that is there. Else the sizes of its files must do.

    Raises:
        StorageError: it could not be written.
    """

    def broken() -> str | None:
        return integrity.broken(directory, thorough=thorough, alive=alive)

    if directory.exists() and broken() is None:
        return  # no lock: to read a large one takes a while, and many jobs may
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _alone(directory.with_name(f".{directory.name}.lock"), alive) as alone:
            if directory.exists():
                if (found := broken()) is None:
                    return  # made while we waited
                log.warning("made again: %s", found)
                shutil.rmtree(directory)
            if alone:  # what is left of others is of those that were killed
                for left in directory.parent.glob(f".{directory.name}.tmp-*"):
                    shutil.rmtree(left, ignore_errors=True)
            _make(directory, fill, alive)
    except OSError as error:
        raise _storage_error(directory, error) from error


@contextlib.contextmanager
def _alone(lock: Path, alive: Alive) -> Iterator[bool]:
    """Wait until nobody else makes this; False where the storage has no locks.

    The kernel lets go of the lock of a process that is killed.
    """
    waiting = False
    with lock.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waiting:
                    log.info("waiting for another job that makes the same", extra={"lock": lock})
                waiting = True
                alive()
                time.sleep(SECONDS_BETWEEN_TRIES)
            except OSError as error:
                if error.errno not in NO_LOCKS_HERE:
                    raise
                yield False
                return
            else:
                yield True
                return


def _make(directory: Path, fill: Callable[[Path], None], alive: Alive) -> None:
    """In a place of its own: one that is not quite dead must not write into ours."""
    staged = directory.with_name(f".{directory.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    staged.mkdir()
    try:
        fill(staged)
        integrity.seal(staged, alive)
        _appear(staged, directory)
    finally:
        shutil.rmtree(staged, ignore_errors=True)  # where it failed: nothing stays half-written


def _appear(staged: Path, directory: Path) -> None:
    try:
        staged.rename(directory)
    except OSError:
        if not directory.exists():  # somebody was faster, with the same
            raise


def _storage_error(directory: Path, error: OSError) -> StorageError:
    try:
        room = f" ({shutil.disk_usage(directory.parent).free >> 20} MiB free)"
    except OSError:
        room = ""
    return StorageError(
        f"cannot write {directory}: {error.strerror or error}{room}; nothing half-written is left",
        "make room on the volume of data.cache.uri (by default that of checkpoint.uri)",
    )


def write_splits(directory: Path, *, sources: Sources, task: Task, alive: Alive) -> None:
    """Tokenize every split into a store of its own below `directory`.

    Raises:
        DataError: a row is bad, or a split is empty.
    """
    if next(sources.rows("train"), None) is None:  # before a task misses something in them
        raise sources.empty("train")
    facts = task.survey(counted(sources.rows("train"), alive))
    if not sources.validation:  # the hash chose these rows, not the user
        facts = task.widen(facts, counted(sources.rows("validation"), alive))
    task.adopt(facts)
    portions = [
        Portion(split, portion, directory / f"{split}-{number:05}")
        for split in sources.splits
        for number, portion in enumerate(sources.portions(split))
    ]
    workers = min(cores(), sources.worth())  # a process takes seconds to start
    numbers = encode_all(task, portions, workers=workers, alive=alive)
    for split in sources.splits:
        made = [
            (portion.directory, rows)
            for portion, rows in zip(portions, numbers, strict=True)
            if portion.split == split
        ]
        total = sum(rows for _, rows in made)
        if not total:
            raise sources.empty(split)
        before = 0
        for part, rows in made:
            shards.shift(part, ROW, before)
            before += rows
        parts = [part for part, _ in made]
        shards.join(directory / split, parts, {**facts, "split": split, "rows": total})
        _tell_cut(Store(directory / split), task.limits())


def _tell_cut(store: Store, limits: dict[str, int]) -> None:
    """Say how many texts are as long as texts may be: what was longer is cut."""
    for column, limit in limits.items():
        full = int((store[column].lengths >= limit).sum())
        if full:
            log.warning(
                "%s split, %s: %d of %d texts (%.1f %%) fill the %d tokens that there may be; "
                "longer ones were cut",
                store.facts["split"],
                column,
                full,
                len(store),
                100.0 * full / len(store),
                limit,
            )


def open_splits(directory: Path, task: Task) -> dict[str, Store]:
    """Open what `write_splits` made, and tell the task its facts."""
    stores = {path.name: Store(path) for path in sorted(directory.iterdir()) if path.is_dir()}
    task.adopt(stores["train"].facts)
    return stores
