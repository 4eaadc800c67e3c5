"""Where the rows of each split come from."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from troika_api.v1alpha1.data import DataSource, ValidationSource
from troika_api.v1alpha1.run import FinetuneRun

from .errors import DataError
from .rows import DataFile, Row, find_files, read_rows
from .runfile import Run

SMALLEST_PORTION = 32 << 20
"""Bytes of input files that are worth a process."""
MOST_PORTIONS = 1024
"""Of a split, about: each leaves files of its own in the store, and every rank maps them all."""


@dataclass(frozen=True)
class Sources:
    """Where the rows of each split come from."""

    train: list[DataFile]
    validation: list[DataFile]
    """Empty where a share of the training rows is held out."""
    test: list[DataFile]
    fraction: float
    """Share of the training rows that is held out."""
    together: tuple[str, ...] = ()
    """Columns: rows that are alike in them are held out together, or none of them is. Without any,
    every row is on its own."""

    @classmethod
    def of(cls, run: Run, *, together: Sequence[str] = ()) -> "Sources":
        """Find the files that the run names.

        Args:
            run: What is to be trained.
            together: Columns in which rows that are alike stay on one side.

        Raises:
            DataError: one of them is not there.
        """
        test = run.data.test if isinstance(run, FinetuneRun) else None
        return cls(
            train=_files(run.data.train),
            validation=_files(run.data.validation),
            test=_files(test) if test else [],
            fraction=run.data.validation.fraction or 0.0,
            together=tuple(together),
        )

    @property
    def splits(self) -> list[str]:
        """Names of the splits that exist."""
        return ["train", "validation", *(["test"] if self.test else [])]

    def files(self, split: str) -> list[DataFile]:
        """The files that hold a split, perhaps among other rows."""
        if split == "test":
            return self.test
        return self.validation if split == "validation" and self.validation else self.train

    def rows(self, split: str) -> Iterator[Row]:
        """The rows of a split, in the order of the files."""
        files = self.files(split)
        return itertools.chain.from_iterable(self.rows_of(file, split) for file in files)

    def rows_of(self, file: DataFile, split: str, *, after: int = 0) -> Iterator[Row]:
        """The rows of a split in one of its files, from those after a line on."""
        rows = read_rows(file, after=after)
        if split == "test" or self.validation:
            return rows
        return (row for row in rows if self._is_held_out(row) == (split != "train"))

    def empty(self, split: str) -> DataError:
        """What to say of a split that has no rows."""
        if split == "validation" and not self.validation:
            remedy = "raise data.validation.fraction or name files of its own"
            return DataError(f"the {split} split has no rows", remedy)
        first, *others = (file.path for file in self.files(split))
        where = f"{first} and {len(others)} more" if others else first
        return DataError(
            f"the {split} split has no rows: {where} gave none", f"check the files of data.{split}"
        )

    def portions(self, split: str) -> list["Sources"]:
        """The files of a split in portions that can be worked on side by side, in their order."""
        files = self.files(split)
        least = max(SMALLEST_PORTION, sum(_size(file) for file in files) // MOST_PORTIONS)
        portions: list[list[DataFile]] = []
        filled = least
        for file in files:
            if filled >= least:
                portions.append([])
                filled = 0
            portions[-1].append(file)
            filled += _size(file)
        return [self._only(split, portion) for portion in portions]

    def worth(self) -> int:
        """Processes that the work on all splits is worth; at least one."""
        total = sum(_size(file) for split in self.splits for file in self.files(split))
        return max(1, total // SMALLEST_PORTION)

    def identity(self) -> list[Any]:
        """What tells these sources from others."""
        files = [
            [file.identity for file in part] for part in (self.train, self.validation, self.test)
        ]
        return [*files, self.fraction, *self.together]

    def _only(self, split: str, files: Sequence[DataFile]) -> "Sources":
        if split == "test":
            return dataclasses.replace(self, test=list(files))
        if split == "validation" and self.validation:
            return dataclasses.replace(self, validation=list(files))
        return dataclasses.replace(self, train=list(files))

    def _is_held_out(self, row: Row) -> bool:
        """By a hash of what is in the row: it stays on its side whatever comes or goes around."""
        # As text, so that a query is the same one in a CSV file and in a file that has numbers.
        alike = [str(row.value(column)) for column in self.together]
        content = json.dumps(alike or row.values, sort_keys=True, default=str).encode()
        word = int.from_bytes(blake2b(content, digest_size=8).digest(), "big")
        return word < self.fraction * 2.0**64


def _size(file: DataFile) -> int:
    return file.identity[1]


def _files(source: DataSource | ValidationSource) -> list[DataFile]:
    return find_files(source.uri, source.format) if source.uri else []
