"""Kill the reconciler before and after every write of a job's life; the end is always the same."""

import asyncio
import copy
import re
import threading
from collections.abc import Coroutine
from typing import Any
from uuid import uuid4

import kopf
import pytest

from support.admin import Admin, Object
from support.fakenode import FakeNode
from support.lives import Lives
from support.stage import Stage, alone, make_namespace
from support.waiting import until
from troika_api.contract import FailureClass, LastWord, SavedCheckpoint, TrainerStatus
from troika_operator.handlers import build_registry, build_settings

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

AT_ONCE = 16
PATIENCE = 90.0
TIMES = frozenset(
    {"lastTransitionTime", "started", "ended", "finished", "time", "suspendedSeconds", "goodput"}
)


def said(step: int) -> TrainerStatus:
    path = f"/mnt/troika/data/checkpoints/bert/{step}"
    saved = SavedCheckpoint(step=step, time=1_800_000_000.0, path=path)
    return TrainerStatus(step=step, first_step=1, total_steps=100, checkpoint=saved)


async def life(there: Stage) -> None:
    """A crash, a retry, a pause, a new size, a good end, and the clean-up."""
    retry = {"backoff": "1s", "crash": 1}
    await there.apply(policy={"retry": retry})
    pods = await there.attempt(0, seconds=PATIENCE)
    boom = LastWord(outcome="Failed", failure=FailureClass.CRASH, message="boom", rank=0)
    await there.node.finish(pods[0], 1, boom)
    await there.attempt(1, seconds=PATIENCE)
    await there.phase("Running", seconds=PATIENCE)
    await there.change({"policy": {"suspend": True}})
    await there.phase("Suspended", seconds=PATIENCE)
    await there.change({"policy": {"suspend": False}})
    await there.attempt(2, seconds=PATIENCE)
    await there.change({"compute": {"nodes": 1}})
    (pod,) = await there.attempt(3, pods=1, seconds=PATIENCE)
    status = said(100).model_copy(update={"attempt": 3})
    await there.node.finish(pod, 0, LastWord(outcome="Succeeded", status=status))
    await there.phase("Succeeded", seconds=PATIENCE)
    await there.change({"policy": {"ttlAfterFinished": "1s"}})
    await there.empty(seconds=PATIENCE)

    async def acted_upon() -> bool:
        body = await there.job()
        return bool(body["status"]["observedGeneration"] == body["metadata"]["generation"])

    await until(acted_upon, "a look at the last change", seconds=PATIENCE)


def timeless(value: Any) -> Any:
    """A status without what differs between two undisturbed runs."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    if isinstance(value, list):
        return [timeless(v) for v in value]
    if isinstance(value, str):
        value = re.sub(r"(bert-ptj-a\d-\d)-[a-z0-9]{5}", r"\1", value)
        return re.sub(r"\d+m?\d*s\b", "SECONDS", value)
    return value


class World:
    """kopf, a node, and as many lives as are wanted, in one event loop."""

    def __init__(self) -> None:
        self.lives = Lives()

    async def play(self) -> tuple[list[str], Object, dict[str, str]]:
        """Writes and end of the undisturbed life; what went wrong in the others."""
        async with Admin.open() as admin, FakeNode.up(admin, f"crash-{uuid4().hex[:6]}") as node:
            node.parting = LastWord(outcome="Terminated", status=said(40))
            kopf_task = asyncio.create_task(self._watch())
            writes, expected = await self._live(admin, node, last=0, after=False)
            gate = asyncio.Semaphore(AT_ONCE)
            wrong: dict[str, str] = {}

            async def one(last: int, *, after: bool) -> None:
                async with gate:
                    name = f"{'after' if after else 'before'} write {last} ({writes[last - 1]})"
                    try:
                        _, status = await self._live(admin, node, last=last, after=after)
                    except AssertionError as error:
                        wrong[name] = f"stuck: {error}"
                        return
                    if status != expected:
                        wrong[name] = f"{status}\nexpected\n{expected}"

            deaths = [(n, after) for n in range(1, len(writes) + 1) for after in (False, True)]
            await asyncio.gather(*(one(last, after=after) for last, after in deaths))
            kopf_task.cancel()
            return writes, expected, wrong

    async def _live(
        self, admin: Admin, node: FakeNode, *, last: int, after: bool
    ) -> tuple[list[str], Object]:
        namespace = f"crash-{uuid4().hex[:8]}"
        await make_namespace(admin, namespace)
        there = Stage(admin, namespace, node)
        try:
            writes = await self.lives.run(admin, namespace, life(there), last=last, after=after)
            status = copy.deepcopy(await there.status())
            made = len(self.lives.jobs[namespace])
            assert made == 4, f"{made} Jobs were made instead of 4"
            return writes, timeless(status)
        finally:
            await admin.delete("PretrainJob", "bert", namespace)
            await admin.delete("Namespace", namespace)
            await admin.delete("PersistentVolume", namespace)

    async def _watch(self) -> None:
        await kopf.operator(
            registry=build_registry(self.lives.listen, gangs=True),
            settings=build_settings(),
            standalone=True,
            clusterwide=True,
        )


def in_a_thread(work: Coroutine[Any, Any, Any]) -> Any:
    """kopf takes the tasks of its event loop with it, so it gets one of its own."""
    found: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def test_a_reconciler_may_die_between_any_two_writes() -> None:
    with alone():
        writes, expected, wrong = in_a_thread(World().play())
    assert len(writes) > 20
    outcomes = [attempt["outcome"] for attempt in expected["attempts"]]
    assert outcomes == ["Failed", "Suspended", "Resized", "Succeeded"]
    assert not wrong, "\n\n".join(f"{name}: {what}" for name, what in wrong.items())
