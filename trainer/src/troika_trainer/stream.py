"""Text that is larger than the disk: tokenized as it is read, a window at a time, again and again.

The tokens of all rows, one after the other, are a column that never ends: lap after lap over the
files, whose order every lap shuffles. It is cut into windows of so many sequences; batches are
drawn from one window, or from two where a step crosses from one into the next. Where a window
begins is a `Position`, which is in the checkpoint: a resume reads one window, whatever step it is.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from .encode import ROWS_AT_A_TIME, Alive, counted
from .errors import DataError
from .randomness import permute
from .rows import DataFile
from .shards import Array, Column, Store
from .sources import Sources
from .tasks import Task

DEFAULT_WINDOW = 8192
"""Sequences."""
ENDLESS = 1 << 60
"""Tokens."""
TEXT = "input_ids"
_FILES = 7
"""Tells the chance that orders files from the one that orders sequences."""


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
    """Fingerprint of the files: in others the rows would be in another order."""


class Stream(Column):
    """The tokens of the training rows, as if they were a column on disk."""

    def __init__(  # noqa: PLR0913
        self, task: Task, sources: Sources, *, window: int, length: int, seed: int, alive: Alive
    ) -> None:
        """Begin at the first row.

        Args:
            task: Turns rows to tokens.
            sources: The files.
            window: Sequences that are held at a time.
            length: Tokens of a sequence.
            seed: Of the order of the files.
            alive: Called now and then while rows are read.
        """
        self.window = window
        """Sequences that are shuffled at a time."""
        kind = np.dtype(task.columns[TEXT].dtype)
        super().__init__([np.empty(0, dtype=kind)], None)
        self._task, self._sources, self._size = task, sources, window * length
        self._seed, self._alive = seed, alive
        self._mark = _mark(sources)
        files = self._lap(0)
        self._begins = {0: Position(0, 0, files[0].path, 0, 0, self._mark)}
        self._held: dict[int, Array] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stream")
        self._next: tuple[int, Future[tuple[Array, Position]]] | None = None
        self._reader: Iterator[tuple[Array, Position]]

    @override
    def __len__(self) -> int:
        return ENDLESS

    @property
    @override
    def items(self) -> int:
        return ENDLESS

    @override
    def slice(self, start: int, stop: int) -> Array:
        pieces = []
        with self._lock:
            while start < stop:
                number, place = divmod(start, self._size)
                piece = self._window(number)[place : place + stop - start]
                pieces.append(piece)
                start += len(piece)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def position(self, sequences: int) -> dict[str, Any]:
        """Where to begin again when so many sequences were used; for the checkpoint."""
        return asdict(self._begins[sequences // self.window])

    def seek(self, saved: dict[str, Any], *, step: int) -> None:
        """Go on from a checkpoint.

        Raises:
            DataError: the files are not those of then.
        """
        position = Position(**saved)
        if position.sources != self._mark:
            raise DataError(
                f"the files of data.train are not those that were there at step {step}: "
                "their names or sizes differ, and so would the order of the rows",
                "put back what was there, or start a new job from the model of this one",
            )
        self._begins[position.window] = position

    # ------------------------------------------------------------------------- window by window

    def _window(self, number: int) -> Array:
        while number not in self._held:
            known = max(begin for begin in self._begins if begin <= number)
            if self._next is None or not known <= self._next[0] <= number:
                self._reader = self._windows(self._begins[known])
                self._read(known)
            self._take()
        return self._held[number]

    def _take(self) -> None:
        """Hold the window that is ready, and the one before it; have the next one read."""
        assert self._next is not None
        number, ready = self._next
        tokens, after = ready.result()
        self._begins[after.window] = after
        self._held[number] = tokens
        for old in [held for held in self._held if not number - 1 <= held <= number]:
            del self._held[old]
        for old in [begin for begin in self._begins if 0 < begin < number - 1]:
            del self._begins[old]
        self._read(after.window)

    def _read(self, number: int) -> None:
        reader = self._reader
        self._next = number, self._pool.submit(lambda: next(reader))

    def _windows(self, begin: Position) -> Iterator[tuple[Array, Position]]:
        """The tokens of each window, and where the one after it begins."""
        parts: list[Array] = []
        missing = self._size
        for at, tokens in self._tokens(begin):
            place = at.skip
            while len(tokens) - place >= missing:
                parts.append(tokens[place : place + missing])
                place += missing
                begin = replace(at, window=begin.window + 1, skip=place)
                yield np.concatenate(parts), begin
                parts, missing = [], self._size
            parts.append(tokens[place:])
            missing -= len(tokens) - place

    def _tokens(self, begin: Position) -> Iterator[tuple[Position, Array]]:
        """The tokens of some rows at a time, and where they begin; lap after lap."""
        at, found = begin, True
        while True:
            files = self._lap(at.lap)
            names = [file.path for file in files]
            for file in files[names.index(at.path) :]:
                if file.path != at.path:
                    at = replace(at, path=file.path, line=0, skip=0)
                rows = self._sources.rows_of(file, "train", after=at.line)
                rows = counted(rows, self._alive)
                while part := list(islice(rows, ROWS_AT_A_TIME)):
                    if len(tokens := _joined(self._task, part)):
                        found = True
                        yield at, tokens
                    at = replace(at, line=part[-1].line, skip=0)
            if not found:
                raise DataError("the train split has no text", "check the files of data.train")
            found = False
            lap = at.lap + 1
            at = replace(at, lap=lap, path=self._lap(lap)[0].path, line=0, skip=0)

    def _lap(self, lap: int) -> list[DataFile]:
        files = self._sources.train
        order = permute(np.arange(len(files)), len(files), self._seed, _FILES, lap)
        return [files[number] for number in order]


def held_out(task: Task, sources: Sources, *, tokens: int, alive: Alive) -> Store:
    """The beginning of the validation split, in memory.

    Args:
        task: Turns rows to tokens.
        sources: The files.
        tokens: How many are enough.
        alive: Called now and then.
    """
    rows = counted(sources.rows("validation"), alive)
    found: list[npt.NDArray[Any]] = []
    while sum(map(len, found)) < tokens and (part := list(islice(rows, ROWS_AT_A_TIME))):
        found += [example[TEXT] for example in task.encode(part)]
    kind = np.dtype(task.columns[TEXT].dtype)
    flat = np.concatenate([np.empty(0, dtype=kind), *found]).astype(kind)
    offsets = np.cumsum([0, *map(len, found)], dtype=np.int64)
    return Store.of({TEXT: Column([flat], offsets)}, {"split": "validation"})


def stream_of(store: Store) -> Stream | None:
    """The stream that a store is, if it is one."""
    column = store.columns.get(TEXT)
    return column if isinstance(column, Stream) else None


def _joined(task: Task, rows: Any) -> Array:
    arrays = [example[TEXT] for example in task.encode(rows)]
    kind = np.dtype(task.columns[TEXT].dtype)
    return np.concatenate([np.empty(0, dtype=kind), *arrays]).astype(kind)


def _mark(sources: Sources) -> str:
    """Names and sizes, not times: a corpus may be copied to another volume."""
    files = [file.identity[:2] for file in sources.train]
    return sha256(repr((files, sources.fraction)).encode()).hexdigest()[:20]
