"""Deletions that no watch event told of.

When a watch has to start anew (after an outage longer than the server's memory of events), kopf
lists what exists and does not tell what is missing. So, every few minutes, uids are compared. The
first such look doubles as a check that everything the operator needs is there.
"""

import asyncio
import logging
from collections.abc import Callable

from .cluster import Cluster
from .errors import ClusterError, NotFoundError, RefusedError, StartupError
from .handlers import CHILD_SELECTOR
from .store import OWN_KINDS, Key, Store

logger = logging.getLogger(__name__)


class Resync:
    """Compares the store with the cluster."""

    def __init__(
        self, cluster: Cluster, store: Store, wake: Callable[[Key], None], *, kinds: tuple[str, ...]
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._wake = wake
        self._kinds = kinds

    async def run(self, namespaces: tuple[str, ...], interval: float) -> None:
        """Compare for ever."""
        while True:
            await asyncio.sleep(interval)
            try:
                await self.compare(namespaces)
            except ClusterError as error:
                logger.warning("could not look for missed deletions: %s", error)

    async def compare(self, namespaces: tuple[str, ...]) -> None:
        """Forget what is gone, and look at the jobs that it belonged to."""
        for kind in self._kinds:
            alive: set[str] = set()
            oldest: int | None = None
            for namespace in namespaces or (None,):
                selector = None if kind in OWN_KINDS else CHILD_SELECTOR
                uids, version = await self._cluster.uids(kind, namespace, selector=selector)
                alive |= uids
                oldest = version if oldest is None else min(oldest, version)
            for key in self._store.prune(kind, alive, oldest or 0):
                self._wake(key)

    async def empty(self, namespaces: tuple[str, ...]) -> bool:
        """Whether there is no object at all; raises a StartupError if a kind cannot be read."""
        found = False
        for kind in self._kinds:
            selector = None if kind in OWN_KINDS else CHILD_SELECTOR
            for namespace in namespaces or (None,):
                try:
                    uids, _ = await self._cluster.uids(kind, namespace, selector=selector, limit=1)
                except NotFoundError as error:
                    text = f"the API does not serve {kind}: install the CRDs"
                    raise StartupError(text) from error
                except RefusedError as error:
                    raise StartupError(f"no right to list {kind}: {error}") from error
                found = found or bool(uids)
        return not found
