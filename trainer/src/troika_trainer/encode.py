"""Rows to examples on disk, file by file and side by side: as many processes as there are cores.

The work is cut into portions of whole files by their sizes alone, and a portion is a store of its
own until all are joined: what comes out does not depend on how many processes there were.
"""

import dataclasses
import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import torch

from . import logs
from .errors import OutOfMemoryError
from .place import Place
from .rows import Row
from .shards import Writer
from .sources import Sources
from .tasks import Task

Alive = Callable[[], None]

ROWS_AT_A_TIME = 1000
SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Portion:
    """Some files of a split, and the store that is made of them."""

    split: str
    sources: Sources
    directory: Path


def encode(task: Task, portion: Portion, alive: Alive) -> int:
    """Make the store of one portion; its rows are numbered from 1.

    Returns:
        Number of rows.

    Raises:
        DataError: a row is not what the run promised.
    """
    writer = Writer(portion.directory, task.columns)
    rows = counted(portion.sources.rows(portion.split), alive)
    number = 0
    while part := [
        dataclasses.replace(row, place=number + place)
        for place, row in enumerate(itertools.islice(rows, ROWS_AT_A_TIME), start=1)
    ]:
        number += len(part)
        writer.add(task.encode(part))
    writer.close({})
    return number


def encode_all(task: Task, portions: Sequence[Portion], *, workers: int, alive: Alive) -> list[int]:
    """Make the stores of all portions, in this process or in several.

    Returns:
        Number of rows of each.

    Raises:
        DataError: a row is not what the run promised.
        OutOfMemoryError: a process was killed.
    """
    workers = min(workers, len(portions))
    if workers == 1:
        return [encode(task, portion, alive) for portion in portions]
    # Forked from a process that has loaded torch and started no thread: ours has many by now.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    done, stop = context.Value("Q", 0), context.Value("b", 0)
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(task, done, stop)
    ) as pool:
        futures = [pool.submit(_work, portion) for portion in portions]
        try:
            _watch(futures, done, alive)
        except BrokenProcessPool as error:
            raise OutOfMemoryError(
                f"one of {workers} processes that tokenize was killed, most likely for memory",
                "ask for more memory, or for fewer cores: each has a process",
            ) from error
        finally:
            stop.value = 1
            pool.shutdown(cancel_futures=True)  # nobody writes any more when this returns
    return [future.result() for future in futures]


def _watch(futures: list[Future[int]], done: "Synchronized[int]", alive: Alive) -> None:
    """Wait for all, or for the first that fails; tell of life where there is some."""
    told = 0
    pending = set(futures)
    while pending:
        _, pending = wait(pending, SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION)
        for future in futures:
            if future.done():
                future.result()
        if (now := done.value) != told:
            told = now
            alive()


class _Abandoned(Exception):  # noqa: N818 - nothing is wrong with this portion
    """Another portion has failed."""


_task: Task
_done: "Synchronized[int]"
_stop: "Synchronized[int]"


def _begin(task: Task, done: "Synchronized[int]", stop: "Synchronized[int]") -> None:
    """What a process knows of its work."""
    global _task, _done, _stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logs.configure(Place.of(os.environ))
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _task, _done, _stop = task, done, stop


def _end_with_parent() -> None:
    """A pool's processes wait for work for ever where their parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(portion: Portion) -> int:
    def alive() -> None:
        if _stop.value:
            raise _Abandoned
        with _done.get_lock():
            _done.value += 1

    return encode(_task, portion, alive)


def counted(rows: Iterator[Row], alive: Alive) -> Iterator[Row]:
    """Pass rows on, with a sign of life now and then."""
    for number, row in enumerate(rows):
        if number % ROWS_AT_A_TIME == 0:
            alive()
        yield row
