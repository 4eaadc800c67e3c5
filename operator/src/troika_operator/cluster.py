"""The only module that writes to the API server, and knows how.

Children are created, and applied on the server's side if they are there already, under one field
manager. A Job is created once and never written again: after that its suspend flag and parts of its
template belong to Kueue.
"""

import re
from collections.abc import Callable
from typing import Any, Protocol

from troika_api.contract import FIELD_MANAGER

from .bucket import TokenBucket
from .connection import Connection, Request
from .errors import ConflictError, NameTakenError, NotFoundError, RefusedError
from .kinds import KINDS, Kind
from .parsing import owner_uid
from .plan import Ref
from .resources.event import build_warning
from .resources.objects import Object

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
MANAGER = {"fieldManager": FIELD_MANAGER}
Count = Callable[[str, str], None]


class Api(Protocol):
    """What a reconciler asks of a cluster; tests put faults between it and the real one."""

    async def apply(self, wanted: Object) -> Object:
        """Make the object as wanted, ours alone; the result as the server has it."""
        ...

    async def create(self, wanted: Object) -> Object:
        """Create the object; if our own exists already, that one."""
        ...

    async def delete(self, namespace: str, ref: Ref) -> Object | None:
        """Delete the object; what is left of it, if it has to wait for something."""
        ...

    async def patch_status(self, raw: Object, change: Object) -> Object:
        """Merge the change into the status, if nobody wrote the object since it was read."""
        ...

    async def warn(self, raw: Object, reason: str, note: str) -> None:
        """Record a Warning Event about a job."""
        ...

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """Read an object."""
        ...

    async def complaint(self, namespace: str, uid: str) -> str | None:
        """Why the Job controller could not make pods of a Job."""
        ...


class Cluster:
    """The real API server."""

    def __init__(
        self, connection: Connection, bucket: TokenBucket, count: Count | None = None
    ) -> None:
        self._connection = connection
        self._bucket = bucket
        self._count = count

    async def apply(self, wanted: Object) -> Object:
        """Create, or apply if it is there and ours.

        Not applied at once: applying by force would make somebody else's object ours.
        """
        found, made = await self._create(wanted)
        if made:
            return found
        kind, namespace, name = _place(wanted)
        query = {**MANAGER, "force": "true"}
        path = kind.path(namespace, name)
        request = Request("PATCH", path, wanted, query, content_type=APPLY)
        return await self._write(kind, "apply", request)

    async def create(self, wanted: Object) -> Object:
        """Create, or find that it was created: an answer may have been lost."""
        found, _ = await self._create(wanted)
        return found

    async def delete(self, namespace: str, ref: Ref) -> Object | None:
        """Delete in the background: nothing waits for the pods."""
        kind = KINDS[ref.kind]
        options: Object = {"propagationPolicy": "Background"}
        if ref.uid:
            options["preconditions"] = {"uid": ref.uid}
        request = Request("DELETE", kind.path(namespace, ref.name), options)
        try:
            left = await self._write(kind, "delete", request)
        except (NotFoundError, ConflictError):
            return None  # gone already, or another object by now
        return left if left.get("kind") == ref.kind else None

    async def patch_status(self, raw: Object, change: Object) -> Object:
        """Based on the version that was decided from: of two operators one wins."""
        kind, namespace, name = _place(raw)
        version = {"resourceVersion": raw["metadata"]["resourceVersion"]}
        body = {"metadata": version, "status": change}
        path = kind.path(namespace, name, "status")
        request = Request("PATCH", path, body, MANAGER, content_type=MERGE)
        return await self._write(kind, "patch_status", request)

    async def warn(self, raw: Object, reason: str, note: str) -> None:
        """One Event, named by what it is about, so that it is not there twice."""
        event = build_warning(raw, reason, note)
        kind, namespace, _ = _place(event)
        try:
            await self._write(kind, "create", Request("POST", kind.path(namespace), event))
        except ConflictError:
            return

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """Read one object."""
        return await self._connection.call(Request("GET", KINDS[kind].path(namespace, name)))

    async def complaint(self, namespace: str, uid: str) -> str | None:
        """From the Job's Events, the only place where it is said; None if that may not be read."""
        query = {"fieldSelector": f"involvedObject.uid={uid},reason=FailedCreate"}
        path = f"/api/v1/namespaces/{namespace}/events"
        try:
            found = await self._connection.call(Request("GET", path, query=query))
        except RefusedError:
            return None
        newest = max(found.get("items") or [], key=_event_time, default=None)
        return _NAMED.sub("pods", str(newest.get("message"))) if newest else None

    async def put_lease(self, lease: Object, *, new: bool) -> Object:
        """Create the Lease, or replace the version that was read."""
        kind, namespace, name = _place(lease)
        if new:
            return await self._write(kind, "create", Request("POST", kind.path(namespace), lease))
        return await self._write(kind, "update", Request("PUT", kind.path(namespace, name), lease))

    async def serves(self, kind: str) -> bool:
        """Whether the API knows the kind."""
        group, plural = KINDS[kind].group_path, KINDS[kind].plural
        try:
            found = await self._connection.call(Request("GET", group))
        except NotFoundError:
            return False
        return any(entry["name"] == plural for entry in found.get("resources") or [])

    async def uids(
        self, kind: str, namespace: str | None, *, selector: str | None
    ) -> tuple[set[str], int]:
        """Uids of all objects of a kind, and the version of the list. Metadata only."""
        query = {"labelSelector": selector} if selector else {}
        request = Request("GET", KINDS[kind].path(namespace), query=query, accept=METADATA_ONLY)
        found = await self._connection.call(request)
        version = str(found["metadata"].get("resourceVersion") or "0")
        uids = {str(item["metadata"]["uid"]) for item in found.get("items") or []}
        return uids, int(version) if version.isdigit() else 0

    async def _create(self, wanted: Object) -> tuple[Object, bool]:
        """The object as it is, and whether it was made now."""
        kind, namespace, name = _place(wanted)
        try:
            made = await self._write(
                kind, "create", Request("POST", kind.path(namespace), wanted, MANAGER)
            )
        except ConflictError:
            found = await self.get(kind.kind, namespace, name)
            if owner_uid(found) != owner_uid(wanted):
                raise NameTakenError(_taken(wanted)) from None
            return found, False
        return made, True

    async def _write(self, kind: Kind, verb: str, request: Request) -> Object:
        await self._bucket.take()
        if self._count is not None:
            self._count(kind.plural, verb)
        return await self._connection.call(request)


def _place(obj: Object) -> tuple[Kind, str, str]:
    meta = obj["metadata"]
    return KINDS[obj["kind"]], meta["namespace"], meta["name"]


_NAMED = re.compile(r'pods "[^"]*"')
"""Names of pods that were not made are new in every try; without them the text stays the same."""


def _event_time(event: Object) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def _taken(wanted: Object) -> str:
    name = f"{wanted['kind']} {wanted['metadata']['name']}"
    return f"{name} exists and belongs to something else; waiting for it to go"


def merge_change(before: Object, after: Object) -> Object:
    """The JSON merge patch (RFC 7386) that makes one object of another."""
    change: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key)
        if old == value and key in before:
            continue
        if isinstance(old, dict) and isinstance(value, dict):
            change[key] = merge_change(old, value)
        else:
            change[key] = value
    return change
