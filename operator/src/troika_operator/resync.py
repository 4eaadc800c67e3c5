"""What exists, by uid: to know when the store holds everything, and what is gone from it.

When a watch has to start anew (after an outage longer than the server's memory of events), kopf
lists what exists and does not tell what is missing. So, every few minutes, uids are compared. The
first look also checks that everything the operator needs is there.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from .errors import ClusterError, NotFoundError, RefusedError, StartupError, UnavailableError
from .handlers import CHILD_SELECTOR
from .store import OWN_KINDS, Key, Store

logger = logging.getLogger(__name__)
ROUNDS = 50
"""Tenths of a second after which what exists is listed anew: something may be gone unseen."""
ASK_AGAIN = 0.5
"""Seconds before an API server that cannot answer yet is asked again."""


class Lists(Protocol):
    """Who tells what exists."""

    async def uids(
        self, kind: str, namespace: str | None, *, selector: str | None
    ) -> tuple[set[str], int]:
        """Uids of all objects of a kind, and the version of the list."""
        ...


class Resync:
    """Compares the store with the cluster."""

    def __init__(
        self, cluster: Lists, store: Store, wake: Callable[[Key], None], *, kinds: tuple[str, ...]
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
            alive, version = await self._uids(kind, namespaces)
            for key in self._store.prune(kind, alive, version):
                self._wake(key)

    async def fill(self, namespaces: tuple[str, ...]) -> None:
        """Wait until the store has seen everything that existed at some moment after the start."""
        while True:
            try:
                unseen = await self._existing(namespaces)
            except UnavailableError as error:
                # Such as right after the CRDs were installed: "storage is (re)initializing".
                logger.warning("asking again in %g s: %s", ASK_AGAIN, error)
                await asyncio.sleep(ASK_AGAIN)
                continue
            for _ in range(ROUNDS):
                unseen = {uid for uid in unseen if not self._store.knows(uid)}
                if not unseen:
                    return
                await asyncio.sleep(0.1)

    async def _existing(self, namespaces: tuple[str, ...]) -> set[str]:
        found: set[str] = set()
        for kind in self._kinds:
            found |= await self._readable(kind, namespaces)
        return found

    async def _readable(self, kind: str, namespaces: tuple[str, ...]) -> set[str]:
        try:
            return (await self._uids(kind, namespaces))[0]
        except NotFoundError as error:
            text = f"the API does not serve {kind}: install the CRDs"
            raise StartupError(text) from error
        except RefusedError as error:
            raise StartupError(f"no right to list {kind}: {error}") from error

    async def _uids(self, kind: str, namespaces: tuple[str, ...]) -> tuple[set[str], int]:
        """Uids of all objects, and a version that none of the lists is older than."""
        selector = None if kind in OWN_KINDS else CHILD_SELECTOR
        alive: set[str] = set()
        versions = []
        for namespace in namespaces or (None,):
            uids, version = await self._cluster.uids(kind, namespace, selector=selector)
            alive |= uids
            versions.append(version)
        return alive, min(versions)
