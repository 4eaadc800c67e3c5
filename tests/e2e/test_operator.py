"""The operator as it is installed: it may die, be away, or be asked to forget a job."""

import json
import subprocess

import pytest

from demo.install import NAMESPACE as OPERATOR_NAMESPACE
from demo.target import Target
from e2e.harness import Jobs
from e2e.manifests import pretrain
from support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
DEPLOYMENT = "deployment/troika"


def scale(target: Target, replicas: int) -> None:
    """Change the number of operator pods, and wait until it is so."""
    target.kubectl("-n", OPERATOR_NAMESPACE, "scale", DEPLOYMENT, f"--replicas={replicas}")
    if replicas:
        target.kubectl("-n", OPERATOR_NAMESPACE, "rollout", "status", DEPLOYMENT, "--timeout=2m")
    else:
        wait_until(
            lambda: not target.get("-n", OPERATOR_NAMESPACE, "pods")["items"],
            "end of the operator's pod",
            seconds=60,
        )


def gone(jobs: Jobs, name: str) -> bool:
    """Whether nothing of a job is left."""
    return not jobs.children(name)


def test_delete_removes_everything(jobs: Jobs) -> None:
    jobs.apply(pretrain("removed", steps=500))
    jobs.wait("ptj", "removed", "Running", timeout=120)
    assert jobs.children("removed").keys() >= {"Job", "Pod", "Service", "ConfigMap", "PodGroup"}
    jobs.kubectl("delete", "ptj", "removed", "--timeout=20s")
    wait_until(lambda: gone(jobs, "removed"), "end of all children", seconds=150)


def test_delete_removes_everything_while_the_operator_is_away(jobs: Jobs, target: Target) -> None:
    jobs.apply(pretrain("orphan", steps=500))
    jobs.wait("ptj", "orphan", "Running", timeout=120)
    scale(target, 0)
    try:
        jobs.kubectl("delete", "ptj", "orphan", "--timeout=20s")
        wait_until(lambda: gone(jobs, "orphan"), "end of all children", seconds=150)
    finally:
        scale(target, 1)
    assert gone(jobs, "orphan")


def test_a_restart_of_the_operator_disturbs_nothing(jobs: Jobs, target: Target) -> None:
    jobs.apply(pretrain("steady", steps=300))
    jobs.wait_for_step("ptj", "steady", 5, timeout=180)
    before = [pod["metadata"]["uid"] for pod in jobs.pods("steady")]
    target.kubectl(
        "-n", OPERATOR_NAMESPACE, "delete", "pod", "--all", "--grace-period=0", "--force"
    )
    target.kubectl("-n", OPERATOR_NAMESPACE, "rollout", "status", DEPLOYMENT, "--timeout=2m")
    assert [pod["metadata"]["uid"] for pod in jobs.pods("steady")] == before
    status = jobs.wait("ptj", "steady", "Complete", timeout=240)
    assert len(status["attempts"]) == 1


def test_the_operator_runs_restricted_and_has_no_torch(target: Target) -> None:
    (pod,) = target.get("-n", OPERATOR_NAMESPACE, "pods")["items"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    command = (*target.kubectl_command, "-n", OPERATOR_NAMESPACE, "exec", pod["metadata"]["name"])
    done = subprocess.run(
        [*command, "--", "python", "-c", "import torch"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "ModuleNotFoundError" in done.stderr


def test_no_job_has_a_finalizer_or_an_annotation_of_the_operators(jobs: Jobs) -> None:
    jobs.apply(pretrain("plain", steps=500, nodes=1))
    jobs.wait("ptj", "plain", "Running", timeout=120)
    metadata = jobs.get("ptj", "plain")["metadata"]
    assert "finalizers" not in metadata
    assert set(metadata.get("annotations", {})) <= {
        "kubectl.kubernetes.io/last-applied-configuration"
    }


def test_what_the_operator_cannot_accept_is_said_and_breaks_nothing(jobs: Jobs) -> None:
    manifest = pretrain("spoilt", nodes=1)
    manifest["spec"]["compute"]["resources"] = {
        "requests": {"memory": "2Gi"},
        "limits": {"memory": "1Gi"},
    }
    jobs.apply(manifest)
    wait_until(
        lambda: (jobs.condition("ptj", "spoilt", "Valid") or {}).get("status") == "False",
        "Valid=False",
        seconds=30,
    )
    message = json.dumps(jobs.condition("ptj", "spoilt", "Valid"))
    assert "memory" in message
    assert "1Gi" in message
