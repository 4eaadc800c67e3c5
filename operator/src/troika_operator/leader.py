"""Leader election: of several replicas one acts, for as long as it can renew its Lease.

A Lease is judged by when we saw it change, never by the time that is written in it: clocks differ.
A leader stops acting well before the others may think it dead.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from .errors import ClusterError, ConflictError, LeadershipLost, NotFoundError
from .resources.objects import Object

logger = logging.getLogger(__name__)


class Leases(Protocol):
    """Where the Lease is kept."""

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """Read it."""
        ...

    async def put_lease(self, lease: Object, *, new: bool) -> Object:
        """Create it, or replace the version that was read."""
        ...


@dataclass
class Leader:
    """One candidate."""

    cluster: Leases
    namespace: str
    name: str
    identity: str
    seconds: float
    """How long a silent leader keeps the Lease."""
    clock: Callable[[], float] = time.monotonic
    _seen: tuple[str, float] | None = field(default=None, init=False)
    """Version of the Lease when it last changed, and when that was."""

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        while not await self.try_once():  # noqa: ASYNC110 - it waits for another process
            await asyncio.sleep(self.seconds / 5)
        logger.info("%s leads", self.identity)

    async def hold(self) -> None:
        """Renew for ever; raises LeadershipLost when that fails for too long."""
        renewed = self.clock()
        beat, patience = self.seconds / 5, self.seconds * 2 / 3
        while True:
            await asyncio.sleep(beat)
            # The others count from the write, which comes before its answer; and a connection that
            # is dead without a word would keep us waiting for longer than they do.
            asked = self.clock()
            if await self._renew(max(renewed + patience - asked, beat)):
                renewed = asked
            elif self.clock() - renewed >= patience:
                raise LeadershipLost(f"{self.namespace}/{self.name} could not be renewed")

    async def _renew(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self.try_once()
        except TimeoutError:
            return False

    async def release(self) -> None:
        """Let the next one in at once."""
        try:
            lease = await self.cluster.get("Lease", self.namespace, self.name)
            if (lease.get("spec") or {}).get("holderIdentity") == self.identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self.cluster.put_lease(lease, new=False)
        except ClusterError as error:
            logger.warning("could not release the lease: %s", error)

    async def try_once(self) -> bool:
        """Take or renew the Lease, if nobody else has it."""
        try:
            try:
                lease = await self.cluster.get("Lease", self.namespace, self.name)
            except NotFoundError:
                await self.cluster.put_lease(self._taken({}, 0), new=True)
                return True
            if not self._free(lease):
                return False
            spec = lease.get("spec") or {}
            ours = spec.get("holderIdentity") == self.identity
            changes = int(spec.get("leaseTransitions") or 0) + (not ours)
            await self.cluster.put_lease(self._taken(lease, changes), new=False)
        except ConflictError:
            return False  # another one was faster
        except ClusterError as error:
            logger.warning("lease: %s", error)
            return False
        return True

    def _free(self, lease: Object) -> bool:
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity")
        if not holder or holder == self.identity:
            return True
        version = str(lease["metadata"]["resourceVersion"])
        if self._seen is None or self._seen[0] != version:
            self._seen = (version, self.clock())
            return False
        return self.clock() - self._seen[1] > float(spec.get("leaseDurationSeconds") or 0)

    def _taken(self, lease: Object, transitions: int) -> Object:
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        known = lease.get("spec") or {}
        ours = known.get("holderIdentity") == self.identity
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": lease.get("metadata") or {"namespace": self.namespace, "name": self.name},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": round(self.seconds),
                "acquireTime": known.get("acquireTime") if ours else now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }
