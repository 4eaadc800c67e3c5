"""The API server as tests use it: the operator's own connection with the administrator's rights."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from troika_operator.connection import JSON, Connection, Request
from troika_operator.errors import NotFoundError
from troika_operator.kinds import KINDS, Kind

Object = dict[str, Any]
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
EXTRA = {
    kind.kind: kind
    for kind in (
        Kind("Namespace", "v1", "namespaces"),
        Kind("Node", "v1", "nodes"),
        Kind("PersistentVolume", "v1", "persistentvolumes"),
        Kind("PersistentVolumeClaim", "v1", "persistentvolumeclaims"),
        Kind("CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions"),
        Kind("Deployment", "apps/v1", "deployments"),
    )
}


def where(kind: str) -> Kind:
    return KINDS.get(kind) or EXTRA[kind]


class Admin:
    """Plain calls, by kind and name."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator["Admin"]:
        connection = await Connection.open()
        try:
            yield cls(connection)
        finally:
            await connection.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        content_type: str = JSON,
        query: dict[str, str] | None = None,
    ) -> Object:
        request = Request(method, path, body, query or {}, content_type=content_type)
        return await self.connection.call(request)

    async def get(self, kind: str, name: str, namespace: str | None = None) -> Object:
        return await self.call("GET", where(kind).path(namespace, name))

    async def find(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        try:
            return await self.get(kind, name, namespace)
        except NotFoundError:
            return None

    async def all(
        self, kind: str, namespace: str | None = None, query: dict[str, str] | None = None
    ) -> list[Object]:
        found = await self.call("GET", where(kind).path(namespace), query=query)
        head = {"kind": kind, "apiVersion": where(kind).api_version}
        return [{**head, **item} for item in found.get("items") or []]

    async def create(self, body: Object) -> Object:
        namespace = body["metadata"].get("namespace")
        return await self.call("POST", where(body["kind"]).path(namespace), body)

    async def patch(
        self, kind: str, name: str, change: Object, namespace: str | None = None, sub: str = ""
    ) -> Object:
        path = where(kind).path(namespace, name, sub)
        return await self.call("PATCH", path, change, content_type=MERGE)

    async def delete(self, kind: str, name: str, namespace: str | None = None, **body: Any) -> None:
        try:
            await self.call("DELETE", where(kind).path(namespace, name), body or None)
        except NotFoundError:
            return
