"""A node whose kubelet is the test: the scheduler, the Job controller and the garbage collector are
real, and containers start, say something and end when the test says so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from troika_api.contract import CONTAINER, LastWord, TrainerStatus
from troika_operator.errors import ClusterError

from .admin import Admin, Object

LABEL = "troika.test/node"
TERMINATED = 143


def placement(node: str) -> Object:
    """compute.* that puts a job on the node."""
    return {
        "nodeSelector": {LABEL: node},
        "tolerations": [{"key": LABEL, "operator": "Exists"}],
    }


def _now(*, micro: bool = False) -> str:
    form = "%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ"
    return f"{datetime.now(UTC):{form}}"


@dataclass
class FakeNode:
    """Keeps itself alive, starts pods at once, and stops them when they are deleted."""

    admin: Admin
    name: str
    label: str = ""
    """Value of the label that jobs select it by; its name, unless it stands in for another."""
    start: bool = True
    """Start what is scheduled here; otherwise pods stay in ContainerCreating."""
    parting: LastWord | None = None
    """What a pod of rank 0 says when it is asked to stop."""
    last_breath: float = 0.0
    """Seconds that a pod takes to stop."""
    dead: bool = False
    """Do nothing any more, as a node that lost its network."""
    trainers: dict[str, TrainerStatus] = field(default_factory=dict)
    """What rank 0 answers, by address of its pod."""
    port: int = 0
    """Where rank 0 answers."""
    _stopping: set[str] = field(default_factory=set)
    _addresses: dict[str, str] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def up(cls, admin: Admin, name: str, label: str = "") -> AsyncIterator["FakeNode"]:
        node = cls(admin, name, label or name)
        await node._register()
        runner = await node._serve()
        tasks = [asyncio.create_task(node._beat()), asyncio.create_task(node._sync())]
        try:
            yield node
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await runner.cleanup()
            await node._remove()

    async def pods(self) -> list[Object]:
        found = await self.admin.all("Pod", query={"fieldSelector": f"spec.nodeName={self.name}"})
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    async def finish(
        self, pod: Object, code: int, word: LastWord | None = None, *, reason: str = ""
    ) -> None:
        """The pod's container exits."""
        ended = {
            "exitCode": code,
            "reason": reason or ("Error" if code else "Completed"),
            "message": word.to_json() if word else "",
            "startedAt": _now(),
            "finishedAt": _now(),
        }
        await self._report(pod, "Failed" if code else "Succeeded", {"terminated": ended})

    async def wait_message(self, pod: Object, reason: str, message: str) -> None:
        """The pod's container cannot start."""
        await self._report(pod, "Pending", {"waiting": {"reason": reason, "message": message}})

    async def lose(self) -> None:
        """The node's network is gone.

        What the node controller and the taint manager do then is done here: they take more than a
        minute for it.
        """
        self.dead = True
        await self.admin.patch("Node", self.name, {"spec": {"unschedulable": True}})
        for pod in await self.pods():
            meta = pod["metadata"]
            kept = [c for c in pod["status"]["conditions"] if c["type"] != "Ready"]
            lost = {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint",
                "lastTransitionTime": _now(),
            }
            silent = {"type": "Ready", "status": "False", "lastTransitionTime": _now()}
            update: Object = {"status": {"conditions": [*kept, silent, lost]}}
            await self.admin.patch("Pod", meta["name"], update, meta["namespace"], sub="status")
            await self.admin.delete("Pod", meta["name"], meta["namespace"])

    async def say(self, attempt: int, status: TrainerStatus) -> None:
        """Rank 0 of every pod here says this from now on."""
        for address in self._addresses.values():
            self.trainers[address] = status.model_copy(update={"attempt": attempt})

    async def _register(self) -> None:
        capacity = {"cpu": "64", "memory": "256Gi", "pods": "500", "nvidia.com/gpu": "64"}
        body: Object = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": {LABEL: self.label}},
            "spec": {"taints": [{"key": LABEL, "effect": "NoSchedule"}]},
        }
        await self.admin.delete("Node", self.name)
        await self.admin.create(body)
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "the test says so",
            "lastHeartbeatTime": _now(),
            "lastTransitionTime": _now(),
        }
        status = {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}
        await self.admin.patch("Node", self.name, {"status": status}, sub="status")

    async def _remove(self) -> None:
        for pod in await self.pods():
            await self._gone(pod)
        await self.admin.delete("Node", self.name)

    async def _beat(self) -> None:
        place = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{self.name}"
        while True:
            if not self.dead:
                spec = {
                    "holderIdentity": self.name,
                    "leaseDurationSeconds": 40,
                    "renewTime": _now(micro=True),
                }
                body = {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self.name, "namespace": "kube-node-lease"},
                    "spec": spec,
                }
                with suppress(ClusterError):
                    await self.admin.call(
                        "PATCH",
                        place,
                        body,
                        content_type="application/apply-patch+yaml",
                        query={"fieldManager": "test", "force": "true"},
                    )
            await asyncio.sleep(8)

    async def _sync(self) -> None:
        while True:
            with suppress(ClusterError):
                for pod in [] if self.dead else await self.pods():
                    await self._sync_pod(pod)
            await asyncio.sleep(0.1)

    async def _sync_pod(self, pod: Object) -> None:
        phase = (pod.get("status") or {}).get("phase") or "Pending"
        uid = pod["metadata"]["uid"]
        if "deletionTimestamp" in pod["metadata"]:
            if uid not in self._stopping:
                self._stopping.add(uid)
                asyncio.get_running_loop().create_task(self._stop(pod, phase))
        elif phase == "Pending" and self.start:
            state = {"running": {"startedAt": _now()}}
            await self._report(pod, "Running", state, ip=self._address(pod))

    async def _stop(self, pod: Object, phase: str) -> None:
        with suppress(ClusterError):
            if phase == "Running":
                await asyncio.sleep(self.last_breath)
                index = pod["metadata"]["annotations"].get(
                    "batch.kubernetes.io/job-completion-index"
                )
                word = self.parting if index == "0" else None
                await self.finish(pod, TERMINATED, word or LastWord(outcome="Terminated"))
            await self._gone(pod)

    async def _gone(self, pod: Object) -> None:
        meta = pod["metadata"]
        await self.admin.delete(
            "Pod",
            meta["name"],
            meta["namespace"],
            gracePeriodSeconds=0,
            preconditions={"uid": meta["uid"]},
        )

    async def _report(
        self, pod: Object, phase: str, state: dict[str, Any], ip: str | None = None
    ) -> None:
        ready = "True" if "running" in state else "False"
        conditions = [
            {"type": kind, "status": ready, "lastTransitionTime": _now()}
            for kind in ("Ready", "ContainersReady")
        ]
        known = (pod.get("status") or {}).get("conditions") or []
        kept = [c for c in known if c["type"] not in ("Ready", "ContainersReady")]
        container = {
            "name": CONTAINER,
            "image": "test",
            "imageID": "",
            "ready": "running" in state,
            "restartCount": 0,
            "state": state,
        }
        status: Object = {
            "phase": phase,
            "conditions": [*kept, *conditions],
            "containerStatuses": [container],
        }
        if ip:
            status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
        meta = pod["metadata"]
        await self.admin.patch(
            "Pod", meta["name"], {"status": status}, meta["namespace"], sub="status"
        )

    def _address(self, pod: Object) -> str:
        """An address of this machine for each pod, so that /status can be answered for each."""
        number = len(self._addresses) + 1
        address = f"127.77.{number // 250}.{number % 250 + 1}"
        return self._addresses.setdefault(pod["metadata"]["uid"], address)

    async def _serve(self) -> web.AppRunner:
        async def status(request: web.Request) -> web.Response:
            transport = request.transport
            assert transport is not None
            said = self.trainers.get(transport.get_extra_info("sockname")[0])
            if said is None:
                return web.Response(status=503)
            return web.Response(text=said.to_json(), content_type="application/json")

        app = web.Application()
        app.add_routes([web.get("/status", status)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        # Any port: a trainer of another test may answer on the contract's.
        await web.TCPSite(runner, "0.0.0.0", 0).start()
        self.port = int(runner.addresses[0][1])
        return runner
