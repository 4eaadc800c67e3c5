"""From files to examples on disk, once: the first rank tokenizes, everyone else reuses.

The cache directory must be on storage that all ranks share; its name is a fingerprint of what
made it, so other data, another tokenizer or another column is another directory.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from troika_api.v1alpha1.data import DataSource, ValidationSource
from troika_api.v1alpha1.run import FinetuneRun

from .errors import DataError
from .rows import DataFile, Row, find_files, read_rows
from .runfile import Run
from .shards import Store, Writer
from .tasks import Task

FORMAT_VERSION = 1
"""Part of every fingerprint: raise it when the same input is to give other examples."""

ROWS_AT_A_TIME = 1000

Alive = Callable[[], None]


@dataclass(frozen=True)
class Sources:
    """Where the rows of each split come from."""

    train: list[DataFile]
    validation: list[DataFile]
    """Empty where a share of the training rows is held out."""
    test: list[DataFile]
    fraction: float
    """Share of the training rows that is held out."""

    @classmethod
    def of(cls, run: Run) -> "Sources":
        """Find the files that the run names.

        Raises:
            DataError: one of them is not there.
        """
        test = run.data.test if isinstance(run, FinetuneRun) else None
        return cls(
            train=_files(run.data.train),
            validation=_files(run.data.validation),
            test=_files(test) if test else [],
            fraction=run.data.validation.fraction or 0.0,
        )

    @property
    def splits(self) -> list[str]:
        """Names of the splits that exist."""
        return ["train", "validation", *(["test"] if self.test else [])]

    def rows(self, split: str) -> Iterator[Row]:
        """The rows of a split, in the order of the files."""
        if split == "test":
            return _chain(self.test)
        if self.validation:
            return _chain(self.train if split == "train" else self.validation)
        return (row for row in _chain(self.train) if self._is_held_out(row) == (split != "train"))

    def identity(self) -> list[Any]:
        """What tells these sources from others."""
        files = [
            [file.identity for file in part] for part in (self.train, self.validation, self.test)
        ]
        return [*files, self.fraction]

    def _is_held_out(self, row: Row) -> bool:
        """By a hash of the row: it stays on its side whatever comes or goes around it."""
        content = json.dumps(row.values, sort_keys=True, default=str).encode()
        word = int.from_bytes(blake2b(content, digest_size=8).digest(), "big")
        return word < self.fraction * 2.0**64


def _files(source: DataSource | ValidationSource) -> list[DataFile]:
    return find_files(source.uri, source.format) if source.uri else []


def _chain(files: list[DataFile]) -> Iterator[Row]:
    return itertools.chain.from_iterable(read_rows(file) for file in files)


def fingerprint(*parts: Any) -> str:
    """A short name for what was made from these parts."""
    text = json.dumps([FORMAT_VERSION, *parts], sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()[:20]


def make_directory(directory: Path, fill: Callable[[Path], None], *, attempt: int = 0) -> None:
    """Fill a directory that appears whole or not at all; one that is there stays as it is.

    Args:
        directory: What is to be there.
        fill: Writes the content into another directory, which is then renamed.
        attempt: Whose work it is: one that is not quite dead must not write into ours.
    """
    if directory.exists():
        return
    staged = directory.with_name(f".{directory.name}.tmp-{attempt}")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    fill(staged)
    try:
        staged.rename(directory)
    except OSError:
        if not directory.exists():
            raise
        shutil.rmtree(staged, ignore_errors=True)  # another attempt was as fast, with the same


def write_splits(directory: Path, *, sources: Sources, task: Task, alive: Alive) -> None:
    """Tokenize every split into a store of its own below `directory`.

    Raises:
        DataError: a row is bad, or a split is empty.
    """
    facts = task.survey(counted(sources.rows("train"), alive))
    task.adopt(facts)
    for split in sources.splits:
        writer = Writer(directory / split, task.columns)
        rows = counted(sources.rows(split), alive)
        number = 0
        while part := list(itertools.islice(rows, ROWS_AT_A_TIME)):
            number += len(part)
            writer.add(task.encode(part))
        if not number:
            raise _empty(split, sources)
        writer.close({**facts, "split": split, "rows": number})


def _empty(split: str, sources: Sources) -> DataError:
    held_out = split == "validation" and not sources.validation
    return DataError(
        f"the {split} split has no rows",
        "raise data.validation.fraction or name files of its own"
        if held_out
        else f"check the files of data.{split}",
    )


def open_splits(directory: Path, task: Task) -> dict[str, Store]:
    """Open what `write_splits` made, and tell the task its facts."""
    stores = {path.name: Store(path) for path in sorted(directory.iterdir()) if path.is_dir()}
    task.adopt(stores["train"].facts)
    return stores


def counted(rows: Iterator[Row], alive: Alive) -> Iterator[Row]:
    """Pass rows on, with a sign of life now and then."""
    for number, row in enumerate(rows):
        if number % ROWS_AT_A_TIME == 0:
            alive()
        yield row
