"""Bring numbers to trackers from threads of their own: whatever a tracker does, training goes on.

Giving a number away is an append to a bounded queue. A tracker that is down or refuses is warned
about once and tried again later, with what has waited since; at the end all have a few seconds.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from .base import Entry, Outcome, Tracker

log = logging.getLogger(__name__)

MOST_WAITING = 5000
"""Entries that are kept for a tracker that is down; older ones are dropped for newer."""
AT_ONCE = 500
SECONDS_BETWEEN_DELIVERIES = 2.0
SECONDS_UNTIL_RETRY = 30.0
SECONDS_AT_END = {Outcome.SUCCEEDED: 15.0, Outcome.TERMINATED: 5.0, Outcome.FAILED: 3.0}
"""A pod that is to go has a grace period, and of a failure the others should learn soon."""


class Courier:
    """One tracker's queue and thread."""

    def __init__(self, tracker: Tracker, *, step: int, pause: float, retry: float) -> None:
        self._tracker, self._pause, self._retry = tracker, pause, retry
        self._next_step = step
        self._waiting: deque[Entry] = deque(maxlen=MOST_WAITING)
        self._dropped = 0
        self._ending = threading.Event()
        self._outcome = Outcome.FAILED
        self._open = self._warned = False
        # A daemon: a tracker that never answers must not keep the process.
        self._thread = threading.Thread(target=self._work, name=tracker.name, daemon=True)
        self._thread.start()

    def give(self, entry: Entry) -> None:
        """Take an entry along next time. Never waits."""
        self._dropped += len(self._waiting) == MOST_WAITING
        self._waiting.append(entry)

    def end(self, outcome: Outcome) -> None:
        """Deliver what is left, close, and be done. Does not wait."""
        self._outcome = outcome
        self._ending.set()

    def join(self, seconds: float) -> None:
        """Wait for the end; say what was not delivered by then."""
        self._thread.join(max(seconds, 0.0))
        lost = len(self._waiting) + self._dropped
        if self._thread.is_alive() or lost:
            self._warned = True  # whatever it still meets, this was the last word
            log.warning("%s did not get all numbers; entries missing: %d", self._tracker.name, lost)

    def _work(self) -> None:
        while not self._ending.is_set():
            seconds = self._pause if self._delivered() else self._retry
            self._ending.wait(seconds)  # what comes meanwhile goes along
        if self._delivered():
            self._tried(lambda: self._tracker.close(self._outcome))

    def _delivered(self) -> bool:
        """Bring everything that waits; False where that failed."""
        if not self._open:
            self._open = self._tried(lambda: self._tracker.open(self._next_step))
        while self._open and self._waiting:
            entries = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            if self._tried(lambda entries=entries: self._tracker.log(entries)):  # type: ignore[misc]
                self._next_step = entries[-1].step + 1
            else:
                self._waiting.extendleft(reversed(entries))
                self._open = False
        return self._open

    def _tried(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, training goes on
            if not self._warned:
                said = f"{type(error).__name__}: {error}"[:400].rstrip(": ")
                log.warning("%s: %s; training goes on without it", self._tracker.name, said)
            self._warned = True
            return False
        return True


class Tracking:
    """All trackers of a run; none of them is opened before `begin`."""

    def __init__(
        self,
        trackers: Sequence[Tracker] = (),
        *,
        pause: float = SECONDS_BETWEEN_DELIVERIES,
        retry: float = SECONDS_UNTIL_RETRY,
    ) -> None:
        self._trackers, self._pause, self._retry = trackers, pause, retry
        self._couriers: list[Courier] = []

    def begin(self, step: int) -> None:
        """Numbers will come from this step on."""
        self._couriers = [
            Courier(tracker, step=step, pause=self._pause, retry=self._retry)
            for tracker in self._trackers
        ]

    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Tell all trackers; never waits and never fails."""
        entry = Entry(step, time.time(), numbers)
        for courier in self._couriers:
            courier.give(entry)

    def end(self, outcome: Outcome, *, seconds: float | None = None) -> None:
        """Deliver and close, all side by side, within this time."""
        deadline = time.monotonic() + (SECONDS_AT_END[outcome] if seconds is None else seconds)
        for courier in self._couriers:
            courier.end(outcome)
        for courier in self._couriers:
            courier.join(deadline - time.monotonic())
        self._couriers = []
