"""A namespace on the real cluster with a node that the test plays, and jobs that run there."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from cluster.up import ensure_up
from troika_operator.errors import NotFoundError

from .admin import Admin, Object, where
from .fakenode import FakeNode, placement
from .operator import RunningOperator, quick, running
from .waiting import until

ROOT = Path(__file__).parents[2]
CHILDREN = ("Job", "Pod", "PodGroup", "Service", "ConfigMap")


@contextmanager
def alone() -> Iterator[None]:
    """A cluster with our CRDs and nobody else's operator, which is away for as long as this takes.

    The embedded one, or that of TROIKA_TEST_KUBECONFIG: any control plane will do, because the
    tests bring their own node.
    """
    given = os.environ.get("TROIKA_TEST_KUBECONFIG")
    os.environ["KUBECONFIG"] = given or str(ensure_up().kubeconfig)
    asyncio.run(_install_crds())
    others = asyncio.run(_send_away())
    try:
        yield
    finally:
        asyncio.run(_scale(others))


async def _send_away() -> dict[tuple[str, str], int]:
    """Operators that are installed, and how many pods they are to have again."""
    query = {"labelSelector": "app.kubernetes.io/name=troika"}
    async with Admin.open() as admin:
        found = {
            (body["metadata"]["namespace"], body["metadata"]["name"]): int(body["spec"]["replicas"])
            for body in await admin.all("Deployment", query=query)
        }
        await _scale(dict.fromkeys(found, 0))

        async def gone() -> bool:
            return not await admin.all("Pod", query=query)

        await until(gone, "the installed operator's end", seconds=90)
    return found


async def _scale(deployments: dict[tuple[str, str], int]) -> None:
    async with Admin.open() as admin:
        for (namespace, name), replicas in deployments.items():
            change = {"spec": {"replicas": replicas}}
            await admin.patch("Deployment", name, change, namespace)


async def _install_crds() -> None:
    async with Admin.open() as admin:
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            body = yaml.safe_load(path.read_text())
            name = body["metadata"]["name"]
            await admin.call(
                "PATCH",
                where("CustomResourceDefinition").path(None, name),
                body,
                content_type="application/apply-patch+yaml",
                query={"fieldManager": "tests", "force": "true"},
            )
            plural = body["spec"]["names"]["plural"]
            await until(partial(_served, admin, plural), f"an API for {plural}", seconds=90)


async def _served(admin: Admin, plural: str) -> bool:
    try:
        await admin.call("GET", f"/apis/troika.dev/v1alpha1/{plural}", query={"limit": "1"})
    except NotFoundError:
        return False
    return True


@dataclass
class Stage:
    """Where one test plays."""

    admin: Admin
    namespace: str
    node: FakeNode

    @contextmanager
    def operator(self, **settings: Any) -> Iterator[RunningOperator]:
        """An operator that looks after this namespace only."""
        with running(quick(self.namespace, **settings), trainer_port=self.node.port) as found:
            yield found

    def manifest(self, example: str, name: str, **spec: Any) -> Object:
        """An example that runs on the test's node, with one claim; `spec` is merged in."""
        body: Object = yaml.safe_load((ROOT / "examples" / f"{example}.yaml").read_text())
        body["metadata"] = {"name": name, "namespace": self.namespace}
        body["spec"]["data"]["train"]["uri"] = "pvc://data/train"
        body["spec"]["data"].pop("validation", None)
        body["spec"]["data"].pop("test", None)
        body["spec"]["checkpoint"] = {"uri": f"pvc://data/checkpoints/{name}"}
        body["spec"]["output"] = {"uri": f"pvc://data/models/{name}"}
        body["spec"]["compute"] = {"nodes": 2, **placement(self.node.name)}
        body["spec"]["compute"] |= spec.pop("compute", {})
        body["spec"] |= spec
        return body

    async def apply(self, example: str = "pretrain-bert", name: str = "bert", **spec: Any) -> None:
        await self.admin.create(self.manifest(example, name, **spec))

    async def job(self, name: str = "bert", kind: str = "PretrainJob") -> Object:
        return await self.admin.get(kind, name, self.namespace)

    async def status(self, name: str = "bert", kind: str = "PretrainJob") -> Object:
        found: Object = (await self.job(name, kind)).get("status") or {}
        return found

    async def phase(
        self, *wanted: str, name: str = "bert", kind: str = "PretrainJob", seconds: float = 30
    ) -> Object:
        """The status, once the phase is one of these."""

        async def check() -> Object | None:
            status = await self.status(name, kind)
            return status if status.get("phase") in wanted else None

        what = f"phase {' or '.join(wanted)} of {name}"
        return await until(check, what, seconds=seconds, seen=lambda: self.status(name, kind))

    async def attempt(
        self, number: int, pods: int = 2, seconds: float = 30, name: str = "bert"
    ) -> list[Object]:
        """Pods of an attempt, once all of them run."""

        async def check() -> list[Object] | None:
            found = [
                pod
                for pod in await self.node.pods()
                if pod["metadata"]["namespace"] == self.namespace
                and pod["metadata"]["labels"]["troika.dev/attempt"] == str(number)
                and (pod.get("status") or {}).get("phase") == "Running"
            ]
            return found if len(found) == pods else None

        async def seen() -> tuple[list[str], Object]:
            return await self.children(), await self.status(name)

        what = f"{pods} running pods of attempt {number}"
        return await until(check, what, seconds=seconds, seen=seen)

    async def change(self, spec: Object, name: str = "bert", kind: str = "PretrainJob") -> None:
        await self.admin.patch(kind, name, {"spec": spec}, self.namespace)

    async def children(self) -> list[str]:
        """Names of all that the operator made, and of what that made."""
        found = []
        for kind in CHILDREN:
            for body in await self.admin.all(kind, self.namespace):
                name = body["metadata"]["name"]
                if name not in ("kube-root-ca.crt", "kubernetes"):
                    found.append(f"{kind}/{name}")
        return found

    async def empty(self, seconds: float = 30) -> None:
        """Everything is gone."""

        async def check() -> bool:
            return not await self.children()

        await until(check, "the end of all children", seconds=seconds, seen=self.children)


@asynccontextmanager
async def stage(prefix: str) -> AsyncIterator[Stage]:
    """A namespace that enforces the restricted Pod Security standard, and a node."""
    name = f"{prefix}-{uuid4().hex[:6]}"
    async with Admin.open() as admin:
        await make_namespace(admin, name)
        async with FakeNode.up(admin, f"node-{name}") as node:
            try:
                yield Stage(admin, name, node)
            finally:
                for kind in ("PretrainJob", "FinetuneJob"):
                    for body in await admin.all(kind, name):
                        await admin.delete(kind, body["metadata"]["name"], name)
                await admin.delete("Namespace", name)
                await admin.delete("PersistentVolume", name)


async def make_namespace(admin: Admin, name: str) -> None:
    """A restricted namespace with the claim `data`."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    meta = {"name": name, "labels": labels}
    await admin.create({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
    await _claim(admin, name)


async def _claim(admin: Admin, namespace: str) -> None:
    """A claim that is bound, as the scheduler wants it; nothing is ever mounted."""
    shared = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "",
    }
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {
            **shared,
            "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/nowhere"},
            "claimRef": {"namespace": namespace, "name": "data"},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": namespace},
        "spec": {
            **shared,
            "volumeName": namespace,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    await admin.create(volume)
    await admin.create(claim)
