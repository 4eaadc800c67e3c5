"""Text that is larger than the disk: tokenized as it is read, a window at a time, again and again.

The tokens of all rows, one after the other, are a column that never ends: lap after lap over the
files, whose order every lap shuffles. It is cut into windows of so many sequences; batches are
drawn from one window, or from two where a step crosses from one into the next. Where a window
begins is a `Position`, which is in the checkpoint: a resume reads one window, whatever step it is.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from .encode import ROWS_AT_A_TIME, Alive, counted
from .errors import DataError
from .position import Position, Read, behind, chained, digest, mark, names
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
        self._mark, self._names = mark(sources), names(sources)
        self._tokenizer = task.preprocessing.fingerprint(task.preprocessor)
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

    def reach(self, sequences: int) -> None:
        """Read the window that has the last of so many sequences, if that was not done yet.

        A rank whose share has none of it would not know where it ends, which a checkpoint tells.
        """
        number = (sequences - 1) // self.window
        if number + 1 not in self._begins:
            with self._lock:
                self._window(number)

    def position(self, sequences: int) -> dict[str, Any]:
        """Where to begin again when so many sequences were used; for the checkpoint."""
        number, used = divmod(sequences, self.window)
        begin = self._begins[number]
        end = self._begins.get(number + 1, begin) if used else begin
        read = Read(
            end=end,
            names=self._names,
            behind=behind(self._lap(end.lap), end) if end.lap == begin.lap else None,
            tokenizer=self._tokenizer,
        )
        return {**asdict(begin), "read": asdict(read)}

    def seek(self, saved: dict[str, Any], *, step: int) -> None:
        """Go on from a checkpoint. What nobody has read yet may have been corrected since.

        Raises:
            DataError: what was read is not what it was.
        """
        begin = Position(**{name: value for name, value in saved.items() if name != "read"})
        known = saved["read"]
        read = Read(**{**known, "end": Position(**known["end"])})
        if found := self._changed(begin, read):
            until = f"{read.end.path}, line {read.end.line}"
            raise DataError(
                f"the files of data.train are not those that were there at step {step}: {found}",
                f"put back what was there (only what was not read yet, after {until}, may change), "
                "or start a new job from the model of this one",
            )
        self._begins[begin.window] = replace(begin, sources=self._mark)

    def _changed(self, begin: Position, read: Read) -> str | None:
        """What is not as it was, in words; None where the stream goes on as it would have."""
        if read.tokenizer != self._tokenizer:
            return (
                "they gave another tokenizer, which numbers the tokens differently "
                "(tokenizer.path can name the one that is in the cache)"
            )
        if begin.sources == self._mark:
            return None
        if read.names != self._names:
            return "their names or sizes differ, and so would the order of the rows"
        if read.behind is None:
            return "sizes differ, and the current window has rows of all files"
        order, end = self._lap(read.end.lap), read.end
        if behind(order, end) != read.behind:
            return f"a file that was read before {end.path} has another size"
        if not self._is_as_read(next(file for file in order if file.path == end.path), end):
            return f"rows of {end.path} that were read before have changed"
        return None

    def _is_as_read(self, file: DataFile, end: Position) -> bool:
        """Whether a file's rows up to a position are what they were. Reads all of them."""
        rows = counted(self._sources.rows_of(file, "train"), self._alive)
        line, found = 0, ""
        while line < end.line and (part := list(islice(rows, ROWS_AT_A_TIME))):
            line, found = part[-1].line, chained(found, part)
        if (line, found) != (end.line, end.rows):
            return False
        rest = _joined(self._task, list(islice(rows, ROWS_AT_A_TIME))) if end.skip else _NOTHING
        return _of_tokens(rest[: end.skip]) == end.tokens

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
        # Where another rank cannot make its part of a step, the one before it is saved, and this
        # rank may have read for the one after it.
        for old in [begin for begin in self._begins if 0 < begin < number - 2]:
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
                skipped = _of_tokens(tokens[:place])
                begin = replace(at, window=begin.window + 1, skip=place, tokens=skipped)
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
                    at = Position(at.window, at.lap, file.path, 0, 0, self._mark)
                rows = self._sources.rows_of(file, "train", after=at.line)
                rows = counted(rows, self._alive)
                while part := list(islice(rows, ROWS_AT_A_TIME)):
                    if len(tokens := _joined(self._task, part)):
                        found = True
                        yield at, tokens
                    after = chained(at.rows, part)
                    at = replace(at, line=part[-1].line, skip=0, rows=after, tokens="")
            if not found:
                raise DataError("the train split has no text", "check the files of data.train")
            found = False
            lap = at.lap + 1
            at = Position(at.window, lap, self._lap(lap)[0].path, 0, 0, self._mark)

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


_NOTHING: Array = np.empty(0)


def _of_tokens(tokens: Array) -> str:
    """Nothing has none."""
    return digest(tokens.tobytes()) if len(tokens) else ""


def _joined(task: Task, rows: Any) -> Array:
    arrays = [example[TEXT] for example in task.encode(rows)]
    kind = np.dtype(task.columns[TEXT].dtype)
    return np.concatenate([np.empty(0, dtype=kind), *arrays]).astype(kind)
