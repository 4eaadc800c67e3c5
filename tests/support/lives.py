"""Many reconcilers in one event loop, each with a namespace of its own and its own way to die.

kopf watches for all of them; every reconciler has a store that starts empty, is filled by a list,
and is lost when the reconciler is killed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from troika_api.v1alpha1.compute import PullPolicy
from troika_operator.actions import Actions
from troika_operator.bucket import TokenBucket
from troika_operator.cluster import Api, Cluster
from troika_operator.handlers import CHILD_SELECTOR
from troika_operator.plan import Observed, PollTarget, Ref, Report
from troika_operator.queue import WorkQueue
from troika_operator.reconcile import Reconciler
from troika_operator.resources.attempt import Platform
from troika_operator.store import OWN_KINDS, Key, Store

from .admin import Admin, Object

KINDS = ("PretrainJob", "FinetuneJob", "Job", "Pod", "PodGroup")


@dataclass
class DeadlyApi:
    """The API server, up to the write that is the last one of this process."""

    api: Api
    last: int = 0
    """Number of the fatal write; 0: none."""
    after: bool = False
    """Whether the fatal write still reaches the server."""
    writes: list[str] = field(default_factory=list)
    dead: asyncio.Event = field(default_factory=asyncio.Event)

    async def _write(self, what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if self.dead.is_set():
            await asyncio.Event().wait()
        self.writes.append(what)
        fatal = len(self.writes) == self.last
        if fatal and not self.after:
            self.dead.set()
            await asyncio.Event().wait()
        answer = await call()
        if fatal or self.dead.is_set():
            self.dead.set()
            await asyncio.Event().wait()
        return answer

    async def apply(self, wanted: Object) -> Object:
        made: Object = await self._write(f"apply {wanted['kind']}", lambda: self.api.apply(wanted))
        return made

    async def create(self, wanted: Object) -> Object:
        made: Object = await self._write(
            f"create {wanted['kind']}", lambda: self.api.create(wanted)
        )
        return made

    async def delete(self, namespace: str, ref: Ref) -> Object | None:
        left: Object | None = await self._write(
            f"delete {ref.kind}", lambda: self.api.delete(namespace, ref)
        )
        return left

    async def patch_status(self, raw: Object, change: Object) -> Object:
        made: Object = await self._write("patch status", lambda: self.api.patch_status(raw, change))
        return made

    async def warn(self, raw: Object, reason: str, note: str) -> None:
        await self._write("warn", lambda: self.api.warn(raw, reason, note))

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        return await self.api.get(kind, namespace, name)

    async def complaint(self, namespace: str, uid: str) -> str | None:
        return await self.api.complaint(namespace, uid)


class NobodySpeaks:
    """Trainers that say nothing while they run."""

    def report(self, _: Key) -> Report | None:
        return None

    def watch(self, _: Key, __: PollTarget | None) -> None:
        return


@dataclass
class Process:
    """One reconciler, from its start to its end."""

    namespace: str
    admin: Admin
    api: DeadlyApi
    store: Store = field(default_factory=Store)
    queue: WorkQueue[Key] = field(default_factory=WorkQueue)
    task: "asyncio.Task[None] | None" = None

    async def begin(self) -> None:
        """The store is known to kopf's listener before it is filled, so that nothing is missed."""
        for kind in KINDS:
            query = {} if kind in OWN_KINDS else {"labelSelector": CHILD_SELECTOR}
            for body in await self.admin.all(kind, self.namespace, query):
                self.see(body)
        platform = Platform("trainer:test", PullPolicy.IF_NOT_PRESENT, gangs=True)
        now = datetime.now(UTC)
        reconciler = Reconciler(
            actions=Actions(self.store, self.api, self.queue.add, 0.0),
            polls=NobodySpeaks(),
            base=Observed(platform=platform, watching_since=now),
            add=self.queue.add,
        )
        self.task = asyncio.create_task(self.queue.work(reconciler.look, 1))

    def see(self, raw: Object) -> None:
        for key in self.store.put(raw):
            self.queue.add(key)

    def gone(self, raw: Object) -> None:
        for key in self.store.remove(raw):
            self.queue.add(key)

    async def kill(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task


@dataclass
class Lives:
    """Leads events to the process that is alive in their namespace."""

    processes: dict[str, Process] = field(default_factory=dict)
    jobs: dict[str, set[str]] = field(default_factory=dict)
    """Uids of all Jobs that ever were, by namespace."""

    def listen(self, kind: str | None, raw: Object) -> None:
        namespace = raw["metadata"]["namespace"]
        if raw["kind"] == "Job":
            self.jobs.setdefault(namespace, set()).add(raw["metadata"]["uid"])
        process = self.processes.get(namespace)
        if process is not None and kind == "DELETED":
            process.gone(raw)
        elif process is not None:
            process.see(raw)

    async def run(
        self, admin: Admin, namespace: str, life: Awaitable[None], *, last: int, after: bool
    ) -> list[str]:
        """Live through `life` with one death; the writes of the first process."""
        cluster = Cluster(admin.connection, TokenBucket(1000, 1000))
        api = DeadlyApi(cluster, last, after)
        first = self.processes[namespace] = Process(namespace, admin, api)
        await first.begin()
        undertaker = asyncio.create_task(self._bury(first, cluster))
        try:
            await life
        finally:
            undertaker.cancel()
            process = self.processes.pop(namespace)
            await process.kill()
        return api.writes

    async def _bury(self, process: Process, cluster: Cluster) -> None:
        await process.api.dead.wait()
        await process.kill()
        heir = Process(process.namespace, process.admin, DeadlyApi(cluster))
        self.processes[process.namespace] = heir
        await heir.begin()
