"""The operator on a real API server with the real Job controller, scheduler and garbage collector.

Only the kubelet is played: containers start, speak and end when the test says so.
"""

import asyncio
from typing import Any

import pytest

from support.fakenode import FakeNode
from support.stage import Stage
from support.waiting import until
from troika_api.contract import (
    Evaluation,
    ExitCode,
    FailureClass,
    LastWord,
    SavedCheckpoint,
    TrainerStatus,
)

pytestmark = pytest.mark.cluster


def training(step: int, **facts: Any) -> TrainerStatus:
    known = {"stage": "Training", "total_steps": 100, "first_step": 1, "last_progress": step}
    return TrainerStatus(**{"step": step, **known, **facts})


def succeeded(**facts: Any) -> LastWord:
    status = training(100, stage="Done", loss=1.5, tokens_per_second=1000.0)
    return LastWord(outcome="Succeeded", status=status, **facts)


async def finish(there: Stage, pods: list[dict[str, Any]], word: LastWord) -> None:
    await there.node.finish(pods[0], 0, word)
    for pod in pods[1:]:
        await there.node.finish(pod, 0, LastWord(outcome="Succeeded"))


async def test_a_job_from_apply_to_its_model(there: Stage) -> None:
    with there.operator() as operator:
        await there.apply()
        pods = await there.attempt(0)
        assert await there.children() == [
            "Job/bert-ptj-a0",
            *(f"Pod/{pod['metadata']['name']}" for pod in pods),
            "PodGroup/bert-ptj-a0",
            "Service/bert-ptj",
            next(name for name in await there.children() if name.startswith("ConfigMap/bert-ptj")),
        ]
        await there.phase("Running")
        writes = operator.writes
        assert sum(n for (_, verb), n in writes.items() if verb != "patch_status") == 4
        assert writes["pretrainjobs", "patch_status"] <= 3
        await there.node.say(0, training(40, loss=2.34567, eta_seconds=65.0))

        async def seen() -> bool:
            return bool((await there.status()).get("progress", {}).get("step") == 40)

        await until(seen, "step 40 in the status", seen=there.status)
        progress = (await there.status())["progress"]
        assert (progress["percent"], progress["loss"], progress["eta"]) == ("40.0%", 2.3457, "1m5s")
        polled = operator.writes["pretrainjobs", "patch_status"]
        await asyncio.sleep(1.5)
        assert operator.writes["pretrainjobs", "patch_status"] == polled
        scores = Evaluation(split="validation", metrics={"loss": 1.5})
        await finish(there, pods, succeeded(evaluation=scores))
        status = await there.phase("Succeeded")
        assert status["model"] == {"uri": "pvc://data/models/bert"}
        assert status["evaluation"]["metrics"] == {"loss": 1.5}
        assert operator.writes["pretrainjobs", "patch_status"] <= polled + 2
        body = await there.job()
        assert "finalizers" not in body["metadata"]
        assert not [k for k in body["metadata"].get("annotations", {}) if "kopf" in k]
        events = await there.admin.all("Event", there.namespace)
        assert not [e for e in events if "troika" in e.get("reportingController", "")]


async def test_a_restart_of_the_operator_writes_nothing(there: Stage) -> None:
    with there.operator():
        await there.apply()
        pods = await there.attempt(0)
        await there.phase("Running")
        await there.apply(name="done")
        done = [p for p in await there.attempt(0, pods=4) if p not in pods]
        await finish(there, [p for p in done if "done-" in p["metadata"]["name"]], succeeded())
        await there.phase("Succeeded", name="done")
        await there.apply(name="idle", policy={"suspend": True})
        await there.phase("Suspended", name="idle")
    with there.operator() as operator:
        await asyncio.sleep(2)
        assert operator.writes == {}


async def test_a_finetune_job_waits_for_the_model_and_starts_from_it(there: Stage) -> None:
    with there.operator():
        await there.apply(
            "finetune-sentiment", "sentiment", model={"from": {"pretrainJob": "bert"}}
        )
        status = await there.phase("Waiting", kind="FinetuneJob", name="sentiment")
        assert status["reason"] == "waiting for PretrainJob bert, which does not exist yet"
        await there.apply()
        pods = await there.attempt(0)
        await finish(there, pods, succeeded())
        await there.phase("Succeeded")
        await there.phase("Running", kind="FinetuneJob", name="sentiment")
        status = await there.status("sentiment", "FinetuneJob")
        assert status["baseModel"] == {"uri": "pvc://data/models/bert"}


async def test_both_kinds_may_share_a_name(there: Stage) -> None:
    with there.operator():
        await there.apply()
        await there.apply("finetune-sentiment", "bert", model={"from": {"uri": "hf://org/bert"}})
        await there.attempt(0, pods=4)
        await there.phase("Running")
        await there.phase("Running", kind="FinetuneJob")


async def test_a_crash_is_retried_with_its_cause_on_record(there: Stage) -> None:
    with there.operator():
        await there.apply(policy={"retry": {"backoff": "1s", "crash": 1}})
        first, second = await there.attempt(0)
        broken = LastWord(
            outcome="Failed", failure=FailureClass.COMMUNICATION, message="reset by peer", rank=0
        )
        cause = LastWord(outcome="Failed", failure=FailureClass.CRASH, message="boom", rank=1)
        await there.node.finish(first, ExitCode.COMMUNICATION, broken)
        await there.node.finish(second, 1, cause)
        pods = await there.attempt(1)
        status = await there.phase("Running")
        failure = status["attempts"][0]["failure"]
        assert (failure["class"], failure["rank"]) == ("Crash", 1)
        assert "boom" in failure["message"]
        assert status["restarts"] == 1
        await there.node.finish(pods[0], 1, cause)
        status = await there.phase("Failed")
        assert status["failures"] == {"Crash": 2}

        async def told() -> bool:
            events = await there.admin.all("Event", there.namespace)
            return [e["reason"] for e in events if e["type"] == "Warning"].count("Crash") == 1

        await until(told, "a Warning about the failure")


async def test_a_deleted_pod_is_followed_by_the_next_attempt_at_once(there: Stage) -> None:
    with there.operator():
        await there.apply(policy={"retry": {"crash": 0}})
        pods = await there.attempt(0)
        await there.phase("Running")
        began = asyncio.get_running_loop().time()
        await there.admin.delete("Pod", pods[1]["metadata"]["name"], there.namespace)
        await there.attempt(1)
        assert asyncio.get_running_loop().time() - began < 10
        status = await there.phase("Running")
        assert status["attempts"][0]["outcome"] == "Preempted"
        assert status["failures"] == {"Preempted": 1}
        assert "Job/bert-ptj-a0" not in await there.children()


async def test_a_pod_that_is_removed_by_force_ends_the_attempt_too(there: Stage) -> None:
    with there.operator():
        await there.apply()
        pods = await there.attempt(0)
        await there.phase("Running")
        name = pods[0]["metadata"]["name"]
        await there.admin.delete("Pod", name, there.namespace, gracePeriodSeconds=0)
        await there.attempt(1)
        assert (await there.phase("Running"))["failures"] == {"Preempted": 1}


async def test_pods_of_a_lost_node_are_not_waited_for(there: Stage) -> None:
    other = f"{there.node.name}-b"
    with there.operator():
        await there.apply()
        await there.attempt(0)
        await there.phase("Running")
        async with FakeNode.up(there.admin, other, label=there.node.label) as stand_in:
            await there.node.lose()
            there.node, lost = stand_in, there.node
            await there.attempt(1)
            status = await there.phase("Running")
            assert status["attempts"][0]["failure"]["class"] == "NodeLost"
            stuck = [pod for pod in await lost.pods() if "deletionTimestamp" in pod["metadata"]]
            assert stuck, "the lost node's pods are still there"


async def test_a_deleted_child_job_comes_back_as_the_next_attempt(there: Stage) -> None:
    with there.operator():
        await there.apply()
        await there.attempt(0)
        await there.phase("Running")
        await there.admin.delete(
            "Job", "bert-ptj-a0", there.namespace, propagationPolicy="Background"
        )
        await there.attempt(1)
        assert (await there.phase("Running"))["failures"] == {"Preempted": 1}


async def test_suspend_lets_the_pods_save_and_resume_goes_on(there: Stage) -> None:
    saved = SavedCheckpoint(
        step=50, time=1_800_000_000.0, path="/mnt/troika/data/checkpoints/bert/50"
    )
    there.node.parting = LastWord(outcome="Terminated", status=training(50, checkpoint=saved))
    there.node.last_breath = 1.0
    with there.operator():
        await there.apply()
        await there.attempt(0)
        await there.phase("Running")
        await there.change({"policy": {"suspend": True}})
        await there.phase("Suspending")
        status = await there.phase("Suspended")
        assert status["checkpoint"]["step"] == 50
        assert status["reason"] == "policy.suspend is true; goes on from step 50"
        assert status["failures"] == {}
        assert not [name for name in await there.children() if name.startswith(("Job/", "Pod/"))]
        await there.change({"policy": {"suspend": False}})
        await there.attempt(1)
        status = await there.phase("Running")
        assert status["restarts"] == 0
        assert [a["outcome"] for a in status["attempts"]] == ["Suspended", "Running"]


async def test_a_new_size_is_the_next_attempt(there: Stage) -> None:
    with there.operator():
        await there.apply()
        await there.attempt(0)
        await there.phase("Running")
        await there.change({"compute": {"nodes": 3}})
        await there.attempt(1, pods=3)
        status = await there.phase("Running")
        assert [(a["nodes"], a["outcome"]) for a in status["attempts"]] == [
            (2, "Resized"),
            (3, "Running"),
        ]


async def test_a_hang_is_ended(there: Stage) -> None:
    with there.operator():
        await there.apply(policy={"hang": {"after": "3s"}, "retry": {"backoff": "1s"}})
        await there.attempt(0)
        await there.node.say(0, training(10))
        await there.attempt(1)
        status = await there.status()
        assert status["attempts"][0]["failure"]["class"] == "Hang"


async def test_children_go_after_the_ttl_and_stay_gone(there: Stage) -> None:
    with there.operator() as operator:
        await there.apply(policy={"ttlAfterFinished": "2s"})
        pods = await there.attempt(0)
        await finish(there, pods, succeeded())
        await there.phase("Succeeded")
        await there.empty()
        before = operator.writes
        await asyncio.sleep(2)
        assert operator.writes == before
        assert await there.children() == []
    with there.operator() as operator:
        await asyncio.sleep(1)
        assert operator.writes == {}


@pytest.mark.parametrize("alive", [True, False], ids=["operator up", "operator down"])
async def test_a_deleted_job_takes_everything_with_it(there: Stage, *, alive: bool) -> None:
    with there.operator() as operator:
        await there.apply()
        await there.attempt(0)
        await there.phase("Running")
        if not alive:
            operator.end()
        await there.admin.delete("PretrainJob", "bert", there.namespace)
        await there.empty()


async def test_a_job_that_is_made_anew_does_not_take_the_old_ones_place_too_soon(
    there: Stage,
) -> None:
    there.node.last_breath = 1.0
    with there.operator():
        await there.apply()
        old = await there.attempt(0)
        await there.admin.delete("PretrainJob", "bert", there.namespace)
        await there.apply()

        async def renewed() -> bool:
            pods = await there.attempt(0)
            return not {p["metadata"]["uid"] for p in pods} & {p["metadata"]["uid"] for p in old}

        await until(renewed, "pods of the new job")
        await there.phase("Running")


async def test_what_belongs_to_others_is_not_touched_and_said(there: Stage) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "bert-ptj", "namespace": there.namespace},
        "spec": {"clusterIP": "None"},
    }
    await there.admin.create(service)
    with there.operator():
        await there.apply()
        status = await there.phase("Pending")
        assert "Service bert-ptj exists and belongs to something else" in status["reason"]
        found = await there.admin.get("Service", "bert-ptj", there.namespace)
        assert "ownerReferences" not in found["metadata"]
        await there.admin.delete("Service", "bert-ptj", there.namespace)
        await there.attempt(0)


async def test_an_invalid_job_says_why(there: Stage) -> None:
    with there.operator():
        await there.apply(compute={"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})
        status = await there.phase("Invalid")
        valid = next(c for c in status["conditions"] if c["type"] == "Valid")
        assert valid["status"] == "False"
        assert "spec.compute.resources.requests: cpu 2 is above its limit 1" in valid["message"]


async def test_the_reason_says_what_holds_the_pods_up(there: Stage) -> None:
    there.node.start = False
    with there.operator():
        await there.apply()

        async def scheduled() -> list[dict[str, Any]] | None:
            pods = await there.node.pods()
            return pods if len(pods) == 2 else None

        pods = await until(scheduled, "two pods on the node")
        await there.node.wait_message(pods[0], "ErrImagePull", "no such image")

        async def said() -> bool:
            return "no such image" in (await there.status()).get("reason", "")

        await until(said, "the kubelet's words in the reason", seen=there.status)
        assert (await there.status())["phase"] == "Starting"


@pytest.mark.parametrize(
    ("limit", "phase"), [("count/jobs.batch", "Pending"), ("count/pods", "Starting")]
)
async def test_a_quota_that_refuses_something_is_the_reason(
    there: Stage, limit: str, phase: str
) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": there.namespace},
        "spec": {"hard": {limit: "0"}},
    }
    path = f"/api/v1/namespaces/{there.namespace}/resourcequotas"
    await there.admin.call("POST", path, quota)

    async def counted() -> bool:
        found = await there.admin.call("GET", f"{path}/none")
        return bool((found.get("status") or {}).get("hard"))

    await until(counted, "the quota's first count")
    with there.operator():
        await there.apply()

        async def said() -> bool:
            return "exceeded quota" in (await there.status()).get("reason", "")

        await until(said, "the quota in the reason", seen=there.status)
        assert (await there.status())["phase"] == phase
        await there.admin.call("DELETE", f"{path}/none")
        await there.attempt(0)
