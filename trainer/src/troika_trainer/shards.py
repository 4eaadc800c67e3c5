"""Examples on disk: flat columns in memory-mapped files, written once and read by every rank.

A store is a directory. Each column is one array of numbers over all examples; a ragged column has
offsets beside it. `index.json` comes last, and the directory is renamed into place, so a store is
whole or not there.

::

    <store>/index.json
    <store>/input_ids.00000.bin      at most SHARD_ITEMS numbers each
    <store>/input_ids.offsets.bin    int64, one more than there are examples (ragged columns)
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SHARD_ITEMS = 1 << 27
"""Numbers in one file: 256 MiB of uint16."""

Array = npt.NDArray[Any]
Example = Mapping[str, Array]


@dataclass(frozen=True)
class ColumnType:
    """How one column is stored: ragged, a 1-d array for each example, or else one number."""

    dtype: str
    ragged: bool = True


class Column:
    """One column over all examples."""

    def __init__(self, parts: list[Array], offsets: Array | None) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self._offsets = offsets

    def __len__(self) -> int:
        """Number of examples."""
        return int(self._starts[-1]) if self._offsets is None else len(self._offsets) - 1

    @property
    def items(self) -> int:
        """Numbers over all examples."""
        return int(self._starts[-1])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Numbers in each example, shape [examples]."""
        if self._offsets is None:
            return np.ones(len(self), dtype=np.int64)
        return np.asarray(np.diff(self._offsets), dtype=np.int64)

    def __getitem__(self, example: int) -> Array:
        """The numbers of one example, shape [length] ([] for a column that is not ragged)."""
        if self._offsets is None:
            return np.asarray(self.slice(example, example + 1)[0])
        return self.slice(int(self._offsets[example]), int(self._offsets[example + 1]))

    def slice(self, start: int, stop: int) -> Array:
        """Numbers of the flat column, wherever examples and files begin. Shape [stop - start]."""
        part = int(np.searchsorted(self._starts, start, side="right")) - 1
        pieces = []
        while start < stop and part < len(self._parts):
            base = int(self._starts[part])
            piece = self._parts[part][start - base : stop - base]
            pieces.append(piece)
            start, part = start + len(piece), part + 1
        if not pieces:
            return np.empty(0, dtype=self._parts[0].dtype if self._parts else np.int64)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


ROW = "row"
"""Column with the number of the row that an example is made of, where rows can be left out."""
NUMBERED = ColumnType("int64", ragged=False)


class Store:
    """A directory of columns, opened for reading."""

    facts: dict[str, Any]
    """What the writer noted beside the columns."""
    columns: dict[str, Column]

    def __init__(self, directory: Path) -> None:
        index = json.loads((directory / "index.json").read_text())
        self.facts = index["facts"]
        self.columns = {
            name: _open(directory, name, entry) for name, entry in index["columns"].items()
        }

    @classmethod
    def of(cls, columns: dict[str, Column], facts: dict[str, Any]) -> "Store":
        """One that is on no disk."""
        store = cls.__new__(cls)
        store.columns, store.facts = columns, facts
        return store

    def __len__(self) -> int:
        """Number of examples."""
        return len(next(iter(self.columns.values())))

    def __getitem__(self, column: str) -> Column:
        return self.columns[column]

    def row(self, example: int) -> int:
        """Number of an example's row in its split, from 1."""
        numbers = self.columns.get(ROW)
        return example + 1 if numbers is None else int(numbers[example])


def _open(directory: Path, name: str, entry: dict[str, Any]) -> Column:
    dtype = np.dtype(entry["dtype"])
    parts = [
        np.memmap(directory / f"{name}.{part:05}.bin", dtype=dtype, mode="r")
        for part in range(entry["parts"])
    ]
    offsets = None
    if entry["ragged"]:
        offsets = np.memmap(directory / f"{name}.offsets.bin", dtype=np.int64, mode="r")
    return Column(list(parts), offsets)


def join(directory: Path, parts: Sequence[Path], facts: Mapping[str, Any]) -> None:
    """Make one store of several, in their order. Files are moved, only offsets are written anew."""
    directory.mkdir(parents=True, exist_ok=True)
    entries = [json.loads((part / "index.json").read_text())["columns"] for part in parts]
    columns: dict[str, Any] = {}
    for name, kind in entries[0].items():
        number, base = 0, np.zeros(1, dtype=np.int64)
        with (directory / f"{name}.offsets.bin").open("wb") as offsets:
            offsets.write(base.tobytes())
            for part, entry in zip(parts, entries, strict=True):
                for shard in range(entry[name]["parts"]):
                    source = part / f"{name}.{shard:05}.bin"
                    source.rename(directory / f"{name}.{number:05}.bin")
                    number += 1
                if kind["ragged"]:
                    own = np.fromfile(part / f"{name}.offsets.bin", dtype=np.int64)
                    offsets.write((own[1:] + base).tobytes())
                    base = own[-1:] + base
        if not kind["ragged"]:
            (directory / f"{name}.offsets.bin").unlink()
        columns[name] = {**kind, "parts": number}
    for part in parts:
        shutil.rmtree(part)
    _write_index(directory, columns, facts)


def shift(directory: Path, column: str, by: int) -> None:
    """Add to every number of a column, where the store has it."""
    for file in sorted(directory.glob(f"{column}.[0-9]*.bin")):
        entry = json.loads((directory / "index.json").read_text())["columns"][column]
        numbers = np.memmap(file, dtype=entry["dtype"], mode="r+")
        numbers += by
        numbers.flush()


def _write_index(directory: Path, columns: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    index = {"columns": columns, "facts": dict(facts)}
    (directory / "index.json").write_text(json.dumps(index, indent=1))


class Writer:
    """Appends examples to a new store."""

    def __init__(self, directory: Path, types: Mapping[str, ColumnType]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._columns = {name: _Appender(directory, name, kind) for name, kind in types.items()}

    def add(self, examples: Iterable[Example]) -> None:
        """Append examples; each must have every column."""
        for example in examples:
            for name, column in self._columns.items():
                column.add(example[name])

    def close(self, facts: Mapping[str, Any]) -> None:
        """Write what is left, and the index last."""
        columns = {name: column.close() for name, column in self._columns.items()}
        _write_index(self._directory, columns, facts)


class _Appender:
    """One column on its way to disk, a buffer at a time."""

    def __init__(self, directory: Path, name: str, kind: ColumnType) -> None:
        self._directory, self._name, self._kind = directory, name, kind
        self._pending: list[Array] = []
        self._pending_items = 0
        self._offsets = [0]
        self._parts = 0

    def add(self, value: Array) -> None:
        array = np.atleast_1d(value).astype(self._kind.dtype)
        self._pending.append(array)
        self._pending_items += len(array)
        self._offsets.append(self._offsets[-1] + len(array))
        if self._pending_items >= SHARD_ITEMS:
            self._flush()

    def close(self) -> dict[str, Any]:
        self._flush()
        if self._kind.ragged:
            offsets = np.asarray(self._offsets, dtype=np.int64)
            (self._directory / f"{self._name}.offsets.bin").write_bytes(offsets.tobytes())
        return {"dtype": self._kind.dtype, "ragged": self._kind.ragged, "parts": self._parts}

    def _flush(self) -> None:
        if self._pending_items:
            path = self._directory / f"{self._name}.{self._parts:05}.bin"
            # Not `tofile`, which says of a full disk how many items were written, and no more.
            path.write_bytes(np.concatenate(self._pending).data)
            self._parts += 1
        self._pending, self._pending_items = [], 0
