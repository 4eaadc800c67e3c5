"""Pulling progress: rank 0's /status, each job on its own beat, so that polls spread out."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import aiohttp
from pydantic import ValidationError

from troika_api.contract import PORT_METRICS, TrainerStatus

from .plan import PollTarget, Report
from .queue import WorkQueue
from .store import Key

CONCURRENCY = 32
FIRST_SECONDS = 5.0
"""The first look comes within this time: a user who has just applied a job is watching."""
MAX_BYTES = 64 * 1024
SILENT_AFTER = 4
"""Polls without an answer after which the last one is not true any more."""


@dataclass
class _Watched:
    target: PollTarget
    report: Report | None = None
    misses: int = 0
    """Polls in a row without an answer."""


class Poller:
    """Asks the trainers that it was told of, and wakes the job when the answer is a new one."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        wake: Callable[[Key], None],
        now: Callable[[], datetime],
        *,
        interval: float,
        port: int = PORT_METRICS,
    ) -> None:
        self._session = session
        self._port = port
        self._wake = wake
        self._now = now
        self._interval = interval
        self._watched: dict[Key, _Watched] = {}
        self.queue: WorkQueue[Key] = WorkQueue()

    def report(self, key: Key) -> Report | None:
        """What the job's trainer last said."""
        watched = self._watched.get(key)
        return watched.report if watched else None

    def watch(self, key: Key, target: PollTarget | None) -> None:
        """Ask this trainer from now on; None: nobody."""
        if target is None:
            self._watched.pop(key, None)
            self.queue.forget(key)
            return
        known = self._watched.get(key)
        if known is None or known.target != target:
            self._watched[key] = _Watched(target)
            first = stagger(target.uid) * min(self._interval, FIRST_SECONDS)
            self.queue.add(key, max(first, 0.001))

    async def run(self) -> None:
        """Poll for ever."""
        await self.queue.work(self.poll, CONCURRENCY)

    async def poll(self, key: Key) -> None:
        """Ask one trainer once."""
        watched = self._watched.get(key)
        if watched is None:
            return
        self.queue.add(key, self._interval)
        said = await self._fetch(watched.target)
        before = watched.report
        if said is None or said.attempt != watched.target.attempt:
            watched.misses += 1
            if watched.misses == SILENT_AFTER and before is not None:
                watched.report = replace(before, silent=True)
                self._wake(key)
            return
        watched.misses = 0
        same = before is not None and _pace(before.status) == _pace(said)
        moved = before.moved if same and before is not None else self._now()
        watched.report = Report(said, moved)
        if before is None or before.silent or before.status != said:
            self._wake(key)

    async def _fetch(self, target: PollTarget) -> TrainerStatus | None:
        """A trainer that does not answer is no error: it may be loading, or not be ours."""
        host = f"[{target.ip}]" if ":" in target.ip else target.ip
        url = f"http://{host}:{self._port}/status"
        try:
            # No redirects: whoever may run a pod must not choose what the operator calls.
            async with self._session.get(url, allow_redirects=False) as answer:
                if answer.status != 200:
                    return None
                return TrainerStatus.model_validate_json(await _body(answer))
        except (TimeoutError, aiohttp.ClientError, OSError, ValidationError):
            return None


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    """The whole body, which may come in pieces; cut where it is longer than any of the contract."""
    body = b""
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > MAX_BYTES:
            break
    return body[:MAX_BYTES]


def _pace(said: TrainerStatus) -> tuple[object, ...]:
    """What changes exactly when something moves."""
    return said.step, said.stage, said.last_progress


def stagger(uid: str) -> float:
    """A fraction that is the same for a pod every time and differs between pods."""
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:4], "big") / 2**32
