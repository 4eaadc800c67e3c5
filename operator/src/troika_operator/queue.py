"""The work queue: keys to look at, each once, never two looks at one key at the same time.

A key that is added while it waits is not added again; one that is added while it is being looked at
is looked at once more afterwards. So a storm of events about one job costs two looks, and what a
look decides from is never older than its start.
"""

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
MANY = 64


class WorkQueue(Generic[K]):
    """Keyed, coalescing, with delays. Time is a parameter, so that tests need not wait."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ready: dict[K, None] = {}
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._serial = 0
        self._active: set[K] = set()
        self._again: set[K] = set()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait for a look now."""
        return len(self._ready)

    def add(self, key: K, delay: float = 0.0) -> None:
        """Look at the key, now or in so many seconds; of two times the earlier one counts."""
        if delay > 0:
            due = self._clock() + delay
            if key in self._ready or self._due.get(key, float("inf")) <= due:
                return
            self._due[key] = due
            self._serial += 1
            heapq.heappush(self._heap, (due, self._serial, key))
            if len(self._heap) > 2 * len(self._due) + MANY:
                # Appointments that were made void stay in the heap until their time comes.
                self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
                heapq.heapify(self._heap)
        elif key in self._active:
            self._again.add(key)
        else:
            self._due.pop(key, None)
            self._ready[key] = None
        self._changed.set()

    def forget(self, key: K) -> None:
        """The key is of no interest any more."""
        self._due.pop(key, None)
        self._ready.pop(key, None)
        self._again.discard(key)

    def take(self) -> K | None:
        """The next key that is due, if there is one; `done` has to follow."""
        self._move_due()
        for key in self._ready:
            del self._ready[key]
            # What was planned before is planned anew by this look.
            self._due.pop(key, None)
            self._active.add(key)
            return key
        return None

    def done(self, key: K) -> None:
        """The look is over."""
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def next_due(self) -> float | None:
        """Seconds until the next delayed key; None if there is none."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return max(self._heap[0][0] - self._clock(), 0.0) if self._heap else None

    def _move_due(self) -> None:
        while (wait := self.next_due()) is not None and wait <= 0:
            _, _, key = heapq.heappop(self._heap)
            del self._due[key]
            self.add(key)

    async def get(self) -> K:
        """The next key; waits for one."""
        while True:
            self._changed.clear()
            key = self.take()
            if key is not None:
                return key
            try:
                async with asyncio.timeout(self.next_due()):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def work(self, look: Callable[[K], Awaitable[None]], concurrency: int) -> None:
        """Look at keys for ever, so many at a time. `look` deals with its own errors."""

        async def one() -> None:
            while True:
                key = await self.get()
                try:
                    await look(key)
                finally:
                    self.done(key)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(one())
