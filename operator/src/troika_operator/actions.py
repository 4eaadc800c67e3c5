"""Doing what a plan says.

Every write may be the last one before a crash, and making it again has to end in the same; the
order that `Plan` gives sees to that.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from troika_api.contract import LABEL_KIND, LABEL_NAME
from troika_api.v1alpha1.status import ConditionType, JobStatus

from . import conditions
from .cluster import Api, merge_change
from .errors import (
    ClusterError,
    ConflictError,
    NameTakenError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from .plan import Memory, Plan, Ref
from .resources import names
from .resources.objects import AttemptObjects, Object
from .store import Key, Store

logger = logging.getLogger(__name__)
LASTING = 3
"""Looks in a row after which a fault of the server is none of a moment."""
MAX_REFUSAL = 2000


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a plan."""

    wrote: bool = False
    wait: float | None = None
    """Seconds until the status may be written: only words and numbers changed, and just before."""


@dataclass
class Actions:
    """Writes, and tells the store what it wrote."""

    store: Store
    api: Api
    wake: Callable[[Key], None]
    """Puts a job on the work queue."""
    status_interval: float = 2.0
    clock: Callable[[], float] = time.monotonic
    memories: dict[Key, Memory] = field(default_factory=dict)

    def memory(self, key: Key) -> Memory:
        """What is remembered of the job."""
        return self.memories.setdefault(key, Memory())

    async def act(self, key: Key, raw: Object, plan: Plan, before: JobStatus) -> Done:
        """Do what the plan says, which was made from `raw` and its status."""
        done = Done()
        if plan.status is not None:
            done = await self._write_status(key, raw, plan.status, before)
        for ref in plan.delete:
            await self._delete(key, ref)
        if plan.start is not None:
            await self._start(key, plan.start)
        return Done(done.wrote or bool(plan.delete) or plan.start is not None, done.wait)

    async def _write_status(
        self, key: Key, raw: Object, status: JobStatus, before: JobStatus
    ) -> Done:
        wanted = status.wire()
        if wanted == before.wire():
            return Done()
        change = merge_change(raw.get("status") or {}, wanted)
        memory = self.memory(key)
        since = self.clock() - memory.patched_at
        if since < self.status_interval and not _urgent(before, status):
            return Done(wait=self.status_interval - since)
        logger.debug("%s %s/%s: status %s", key.kind, key.namespace, key.name, change)
        try:
            self._keep(key, await self.api.patch_status(raw, change))
        except NotFoundError:
            self.store.remove(raw)
            return Done(wrote=True)
        except ConflictError:
            # The watch will bring the newer one, but nobody knows when.
            self._keep(key, await self.api.get(key.kind, key.namespace, key.name))
            raise
        memory.patched_at = self.clock()
        await self._tell(raw, before, status)
        return Done(wrote=True)

    def _keep(self, key: Key, raw: Object) -> None:
        """Take in what the server answered. Jobs that wait for this one hear of it here: when the
        watch tells of it too, it is no news.
        """
        for other in self.store.put(raw) - {key}:
            self.wake(other)

    async def _tell(self, raw: Object, before: JobStatus, after: JobStatus) -> None:
        failed = conditions.condition(after, ConditionType.FAILED)
        new = failed is not None and not conditions.holds(before, ConditionType.FAILED)
        if failed is None or not new or failed.status != "True":
            return
        try:
            await self.api.warn(raw, failed.reason, failed.message)
        except ClusterError as error:
            logger.warning("no Event about %s: %s", raw["metadata"]["name"], error)

    async def _delete(self, key: Key, ref: Ref) -> None:
        left = await self.api.delete(key.namespace, ref)
        if left is not None:
            self._keep(key, left)
        elif ref.uid is not None:
            labels = {LABEL_KIND: key.kind, LABEL_NAME: names.label_value(key.name)}
            meta = {"namespace": key.namespace, "uid": ref.uid, "labels": labels}
            self.store.remove({"kind": ref.kind, "metadata": meta})

    async def _start(self, key: Key, objects: AttemptObjects) -> None:
        """Make the attempt's objects, its Job last: that it is there says that the rest is."""
        memory = self.memory(key)
        try:
            for made in await asyncio.gather(*(self.api.apply(part) for part in objects.shared)):
                self._keep(key, made)
            self._keep(key, await self.api.create(objects.job))
        except (RefusedError, NameTakenError) as error:
            memory.refusal = str(error)
            raise
        except UnavailableError as error:
            # A webhook that is down is a fault of the server too: somebody has to read of it.
            if memory.failures >= LASTING:
                memory.refusal = str(error)[:MAX_REFUSAL]
            raise
        memory.refusal = None


def _urgent(before: JobStatus, after: JobStatus) -> bool:
    """Whether more changed than numbers and words."""

    def state(status: JobStatus) -> object:
        return (
            status.phase,
            [(c.type, c.status) for c in status.conditions],
            [(a.number, a.outcome) for a in status.attempts],
        )

    return state(before) != state(after)
