"""The operator, put together: store, queue, poller, reconciler, and kopf that feeds them."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import aiohttp
import kopf

from troika_api.contract import PORT_METRICS

from .actions import Actions
from .bucket import TokenBucket
from .cluster import Api, Cluster
from .connection import Connection
from .handlers import build_registry, build_settings, fill
from .plan import Observed
from .progress import Poller
from .queue import WorkQueue
from .reconcile import Reconciler
from .resources.attempt import Platform
from .resync import Resync
from .settings import Settings
from .store import Key, Store
from .telemetry import Telemetry

logger = logging.getLogger(__name__)
KINDS = ("PretrainJob", "FinetuneJob", "Job", "Pod")


class Operator:
    """One run of the operator, from an empty store until `stop` is set."""

    def __init__(
        self,
        settings: Settings,
        telemetry: Telemetry,
        store: Store,
        *,
        trainer_port: int = PORT_METRICS,
    ) -> None:
        self.settings = settings
        self.trainer_port = trainer_port
        self.telemetry = telemetry
        self.store = store
        self.queue: WorkQueue[Key] = WorkQueue()
        self.full = asyncio.Event()
        self.began = False
        telemetry.queue_depth.set_function(lambda: float(len(self.queue)))

    def missing(self) -> str | None:
        """What still has to happen before this operator works; None if it does."""
        return None if self.full.is_set() else "waiting for the first list of every kind"

    async def run(
        self, stop: asyncio.Event, *, wrap: Callable[[Api], Api] = lambda api: api
    ) -> None:
        """Work until told to stop. `wrap` puts something between the reconciler and the cluster."""
        settings = self.settings
        self.began = True
        async with AsyncExitStack() as stack:
            connection = await Connection.open()
            stack.push_async_callback(connection.close)
            bucket = TokenBucket(settings.write_rate, settings.write_burst)
            cluster = Cluster(connection, bucket, self.telemetry.wrote)
            timeout = aiohttp.ClientTimeout(total=settings.poll_timeout)
            session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
            gangs = await cluster.serves("PodGroup")
            kinds = (*KINDS, "PodGroup") if gangs else KINDS
            resync = Resync(cluster, self.store, self.queue.add, kinds=kinds)
            logger.info("starting; gang scheduling is %s", "served" if gangs else "not served")
            poller = Poller(
                session,
                self.queue.add,
                _now,
                interval=settings.poll_interval,
                port=self.trainer_port,
            )
            reconciler = self._reconciler(wrap(cluster), poller, gangs=gangs)
            listener = fill(self.store, self.queue.add)
            await first_of(
                self._work(reconciler),
                poller.run(),
                self._keep_true(resync),
                # The last one: at its end kopf cancels all tasks that began after it.
                kopf.operator(
                    registry=build_registry(listener, gangs=gangs),
                    settings=build_settings(),
                    standalone=True,
                    clusterwide=not settings.watch_namespaces,
                    namespaces=settings.watch_namespaces,
                    stop_flag=stop,
                ),
            )

    def _reconciler(self, api: Api, poller: Poller, *, gangs: bool) -> Reconciler:
        settings = self.settings
        platform = Platform(
            image=settings.trainer_image,
            pull_policy=settings.trainer_pull_policy,
            run_as_user=settings.run_as_user,
            fs_group=settings.fs_group,
            gangs=gangs,
        )
        return Reconciler(
            actions=Actions(self.store, api, self.queue.add, settings.status_interval),
            polls=poller,
            base=Observed(platform=platform, watching_since=_now()),
            add=self.queue.add,
            counters=self.telemetry,
        )

    async def _work(self, reconciler: Reconciler) -> None:
        """Look at nothing before everything is known: a Job not yet listed would be made again."""

        async def look(key: Key) -> None:
            await self.full.wait()
            await reconciler.look(key)

        await self.queue.work(look, self.settings.concurrency)

    async def _keep_true(self, resync: Resync) -> None:
        await resync.fill(self.settings.watch_namespaces)
        self.full.set()
        logger.info("ready; %d jobs are known", len(self.store.jobs))
        await resync.run(self.settings.watch_namespaces, self.settings.resync_interval)


async def first_of(*parts: Coroutine[Any, Any, object]) -> None:
    """Run all until the first ends, well or not; then end the others."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _now() -> datetime:
    return datetime.now(UTC)
