"""The two sides of a comparison: processes that train in turn, a stretch of steps each.

A side is a process of its own, with its own memory and its own loop. A gate stands in that loop
after every step and holds it up while another side has its turn, so that a slow minute of the
machine is everybody's.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, TypeVar

MIB = 1024.0  # getrusage counts in KiB
PATIENCE = 600.0
"""Seconds until a side that says nothing is given up."""


@dataclass(frozen=True)
class Stretch:
    """Some steps of one side."""

    seconds: float
    """Of the steps alone: validation and waiting for a turn are not in it."""
    cpu: float
    """Seconds of processor time in those, of all threads: what another process cannot change."""
    tokens: int
    """Real ones; padding is not counted."""
    losses: list[float]
    """Of each step."""
    peak: float
    """Largest resident memory of the process so far, in MiB."""
    validation: float | None
    """The last validation loss, where one was measured."""


class Enough(Exception):  # noqa: N818 - no error: how a side leaves its loop
    """No more steps are wanted."""


class Gate:
    """Where a training loop stops until its side's turn."""

    def __init__(self, link: Connection) -> None:
        self._link = link
        self._left = 0
        self.option = False
        """What the other end said with the last turn."""
        self.validation: float | None = None

    def open(self) -> None:
        """Before a step: wait for the first turn."""
        if self._left == 0:
            self._begin()

    def passed(self, *, tokens: int, loss: float) -> None:
        """After a step: count it, and wait for the next turn where this one is over."""
        self._tokens += tokens
        self._losses.append(loss)
        self._left -= 1
        if self._left == 0:
            seconds = time.monotonic() - self._started
            cpu = time.process_time() - self._cpu_started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB
            self._link.send(
                Stretch(seconds, cpu, self._tokens, self._losses, peak, self.validation)
            )
            self._begin()

    def outside(self, work: Callable[[], float]) -> None:
        """Validate with the clock stopped."""
        before = self.now()
        self.validation = work()
        self.hold(before)

    def now(self) -> tuple[float, float]:
        """Monotonic time and processor time."""
        return time.monotonic(), time.process_time()

    def hold(self, before: tuple[float, float]) -> None:
        """Take out of the stretch what has gone by since `before`."""
        seconds, cpu = (now - then for now, then in zip(self.now(), before, strict=True))
        self._started += seconds
        self._cpu_started += cpu

    def _begin(self) -> None:
        self._left, self.option = self._link.recv()
        if self._left == 0:
            raise Enough
        self._tokens, self._losses = 0, list[float]()
        self._started, self._cpu_started = self.now()


class Side:
    """One process that trains when it is told to."""

    def __init__(self, train: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._link, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, train, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def steps(self, number: int, *, option: bool = False) -> Stretch:
        """Have it train for so many steps.

        Raises:
            RuntimeError: the process has failed; it has said why.
        """
        try:
            self._link.send((number, option))
            if not self._link.poll(PATIENCE):
                raise RuntimeError(f"no {number} steps in {PATIENCE:g} s")
            stretch: Stretch = self._link.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError("a side of the comparison has failed, see above") from error
        return stretch

    def close(self) -> None:
        """End it."""
        self._link.send((0, False))
        self._process.join(30)
        self._process.kill()


def _main(link: Connection, train: Callable[..., None], *arguments: Any) -> None:
    try:
        train(Gate(link), *arguments)
    except Enough:
        return


Name = TypeVar("Name", str, bool)


def in_turn(sides: dict[Name, Side], *, rounds: int, steps: int) -> dict[Name, list[Stretch]]:
    """A B A B: the stretch of each side in each round, after a few steps that are not counted."""
    for side in sides.values():
        side.steps(3)
    found: dict[Name, list[Stretch]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            found[name].append(side.steps(steps))
    return found
