"""One look at one job: observe, decide, act; again until there is nothing to do."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from pydantic import ValidationError

from troika_api.v1alpha1.status import JobStatus, Outcome

from .actions import Actions
from .decide import decide, decide_unreadable
from .errors import ConflictError, NotFoundError, OperatorError
from .observe import observe, read, source_key
from .plan import Memory, Observed, Plan, PollTarget, Report
from .resources import names
from .resources.labels import Job
from .resources.objects import Object
from .running import PODS_EXIST_IN
from .store import Children, Key
from .validation import readable

logger = logging.getLogger(__name__)
MAX_ROUNDS = 8
"""A look takes four rounds at most; more would mean that decisions do not converge."""
FIRST_RETRY = 0.5
LAST_RETRY = 120.0
AFTER_CONFLICT = 0.05


class Polls(Protocol):
    """Who knows what trainers say."""

    def report(self, key: Key, /) -> Report | None:
        """What the job's trainer last said."""
        ...

    def watch(self, key: Key, target: PollTarget | None, /) -> None:
        """Ask this trainer from now on."""
        ...


class Counters(Protocol):
    """Who counts looks."""

    def looked(self, kind: str, seconds: float, error: str | None) -> None:
        """One look, how long it took, and what went wrong."""
        ...


@dataclass
class Reconciler:
    """Looks at jobs. It decides from the store, and acts through `actions`."""

    actions: Actions
    polls: Polls
    base: Observed
    """What is the same for all jobs."""
    add: Callable[[Key, float], None]
    """Puts a key on the work queue."""
    counters: Counters | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def look(self, key: Key) -> None:
        """Look at a job; whatever goes wrong, it is looked at again."""
        memory = self.actions.memory(key)
        began = self.clock()
        error: str | None = None
        try:
            delay = await self._rounds(key, memory)
            memory.failures = 0
        except Exception as caught:  # noqa: BLE001 - one job's trouble is not another's
            error = type(caught).__name__
            delay = self._retry(key, memory, caught)
        if self.counters is not None:
            self.counters.looked(key.kind, self.clock() - began, error)
        if delay is not None and key in self.actions.store.jobs:
            self.add(key, delay)

    def _retry(self, key: Key, memory: Memory, error: Exception) -> float:
        """Say what went wrong; seconds until the next try, which double each time."""
        expected = isinstance(error, ConflictError)
        first = AFTER_CONFLICT if expected else FIRST_RETRY
        delay = min(first * (1 << min(memory.failures, 16)), LAST_RETRY)
        memory.failures += 1
        if not expected:
            log = logger.warning if isinstance(error, OperatorError) else logger.exception
            what = type(error).__name__
            log("%s %s/%s: %s: %s", key.kind, key.namespace, key.name, what, error)
        return delay

    async def _rounds(self, key: Key, memory: Memory) -> float | None:
        for _ in range(MAX_ROUNDS):
            raw = self.actions.store.jobs.get(key)
            if raw is None:
                self._forget(key)
                return None
            plan, status = await self._decide(key, raw, memory)
            self.polls.watch(key, plan.poll)
            done = await self.actions.act(key, raw, plan, status)
            if not done.wrote:
                waits = [w for w in (done.wait, plan.requeue_after) if w is not None]
                return min(waits) if waits else None
        raise OperatorError(f"decisions do not settle; the last plan was {plan}")

    def _forget(self, key: Key) -> None:
        self.actions.memories.pop(key, None)
        self.polls.watch(key, None)
        self.actions.store.waits_for(key, None)

    async def _decide(self, key: Key, raw: Object, memory: Memory) -> tuple[Plan, JobStatus]:
        """The plan, and the status that it was made from."""
        store = self.actions.store
        try:
            job = read(store, key)
        except ValidationError as error:
            status = JobStatus.model_validate(raw.get("status") or {})
            generation = int(raw["metadata"].get("generation", 1))
            text = readable(error)
            plan = decide_unreadable(status, message=text, generation=generation, now=self.now())
            return plan, status
        assert job is not None
        store.waits_for(key, source_key(job))
        await self._ask(key, job, memory)
        report = self.polls.report(key)
        observed = observe(store, job, self.base, report=report, memory=memory)
        return decide(job, observed, self.now()), job.status

    async def _ask(self, key: Key, job: Job, memory: Memory) -> None:
        """Two questions to the API server that no watch answers, in states that are seldom."""
        memory.complaint = None
        newest = job.status.attempts[-1] if job.status.attempts else None
        if newest is None or newest.outcome is not Outcome.RUNNING:
            return
        children = self.actions.store.children.get(key.label(), Children())
        view = next((v for v in children.jobs.values() if v.shape.number == newest.number), None)
        if view is None:
            await self._confirm(key, names.attempt(job.short_name, key.name, newest.number))
            return
        pods = sum(pod.job_uid == view.uid for pod in children.pods.values())
        if pods < newest.nodes and view.started and self.now() >= view.started + PODS_EXIST_IN:
            memory.complaint = await self.actions.api.complaint(key.namespace, view.uid)

    async def _confirm(self, key: Key, name: str) -> None:
        """Before a recorded attempt's Job is believed to be gone: a watch may lag behind."""
        try:
            found = await self.actions.api.get("Job", key.namespace, name)
        except NotFoundError:
            return
        self.actions.store.put(found)
