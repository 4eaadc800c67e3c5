"""The main job: pretrain, fine-tune what it made, see both in kubectl and in Prometheus."""

import json
import urllib.parse
import urllib.request
from typing import Any

import pytest

from demo import volume
from demo.target import Target
from e2e.harness import Jobs
from e2e.manifests import finetune, pretrain
from support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

COLUMNS = ["PHASE", "STEP", "PROGRESS", "LOSS", "TOKENS/S", "MFU", "GPUS", "ETA", "RESTARTS", "AGE"]


def ask(target: Target, query: str) -> list[dict[str, Any]]:
    """Prometheus' answer to an instant query."""
    url = f"{target.prometheus_url}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(url, timeout=10) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return result


@pytest.fixture(scope="module")
def finished(jobs: Jobs) -> dict[str, dict[str, Any]]:
    """Both jobs, applied at once, run to their end; the statuses by kind, and what was seen."""
    # Long enough for several scrapes: a rate takes two.
    training = {"epochs": 20, "globalBatchSize": 16, "precision": "FP32"}
    jobs.apply(finetune("tone", "prose", training=training))
    waiting = wait_until(
        lambda: jobs.status("ftj", "tone").get("reason"), "reason for waiting", seconds=20
    )
    jobs.apply(pretrain("prose", steps=500))
    jobs.wait("ptj", "prose", "Running", timeout=120)
    jobs.wait_for_step("ptj", "prose", 5, timeout=120)
    table = jobs.kubectl("get", "ptj,ftj")
    pods = jobs.pods("prose")
    first = jobs.wait("ptj", "prose", "Complete", timeout=240)
    second = jobs.wait("ftj", "tone", "Complete", timeout=240)
    jobs.made.clear()  # kept for the other tests of this module
    return {
        "pretrain": first,
        "finetune": second,
        "seen": {"waiting": waiting, "table": table, "pods": pods},
    }


def test_a_finetune_job_waits_for_its_model_and_says_so(finished: dict[str, Any]) -> None:
    assert "PretrainJob prose" in finished["seen"]["waiting"]


def test_kubectl_get_shows_where_a_running_job_is(finished: dict[str, Any]) -> None:
    header, *rows = finished["seen"]["table"].splitlines()
    assert header.split()[1:] == COLUMNS
    running = next(row for row in rows if "pretrainjob.troika.dev/prose" in row).split()
    phase, step, percent, loss, speed = running[1:6]
    assert phase == "Running"
    assert int(step) >= 5
    assert percent.endswith("%")
    assert 0 < float(loss) < 12
    assert int(speed) > 0


def test_the_validation_loss_fell(finished: dict[str, Any], jobs: Jobs) -> None:
    report = json.loads(volume.read(jobs.target, jobs.namespace, "models/prose/report.json"))
    first, last = report["history"][0]["loss"], report["history"][-1]["loss"]
    assert finished["pretrain"]["evaluation"]["metrics"]["loss"] == pytest.approx(last, abs=1e-4)
    assert last < first - 0.2


def test_the_report_is_in_the_status(finished: dict[str, Any]) -> None:
    evaluation = finished["finetune"]["evaluation"]
    assert evaluation["split"] == "test"
    assert {row["name"] for row in evaluation["classes"]} == {"fresh", "rotten"}
    assert {"accuracy", "f1", "loss"} <= evaluation["metrics"].keys()


def test_a_finished_job_says_what_holds(finished: dict[str, Any]) -> None:
    for status in (finished["pretrain"], finished["finetune"]):
        conditions = {c["type"]: c["status"] for c in status["conditions"]}
        assert conditions["Complete"] == "True"
        assert conditions.get("Running") == "False"
        assert status["phase"] == "Succeeded"
        assert status["progress"]["ratio"] == 1
        assert status["restarts"] == 0
        assert status["model"]["uri"].startswith("pvc://e2e/models/")


def test_the_model_directory_is_what_from_pretrained_reads(
    finished: dict[str, Any], jobs: Jobs
) -> None:
    code = (
        "from transformers import pipeline; "
        f"p = pipeline('text-classification', '{volume.MOUNT}/models/tone'); "
        "print(p('a wonderful film')[0]['label'])"
    )
    out = jobs.kubectl("exec", volume.POD, "--", "env", "HF_HOME=/tmp", "python", "-c", code)
    assert out.split()[-1] in {"fresh", "rotten"}
    names = jobs.kubectl("exec", volume.POD, "--", "ls", f"{volume.MOUNT}/models/tone").split()
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "README.md",
        "report.json",
    } <= set(names)
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


def test_prometheus_has_the_tokens_of_both_jobs(finished: dict[str, Any], target: Target) -> None:
    query = "max by (kind, name) (max_over_time(rate(troika_train_tokens_total[1m])[15m:5s]))"
    rates = wait_until(
        lambda: {
            series["metric"]["kind"]: float(series["value"][1])
            for series in ask(target, query)
            if series["metric"]["name"] in ("prose", "tone")
        },
        "tokens in Prometheus",
        seconds=20,
    )
    assert rates["PretrainJob"] > 0
    assert rates["FinetuneJob"] > 0


def test_trainer_pods_are_restricted_and_have_no_token(finished: dict[str, Any]) -> None:
    pods = finished["seen"]["pods"]
    assert len(pods) == 2
    for pod in pods:
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/var/run/secrets/kubernetes.io/serviceaccount" not in mounts


def test_nothing_is_written_once_a_job_is_done(finished: dict[str, Any], jobs: Jobs) -> None:
    before = jobs.get("ptj", "prose")["metadata"]["resourceVersion"]
    jobs.kubectl("annotate", "ptj", "prose", "look=again", "--overwrite")
    after = jobs.get("ptj", "prose")["metadata"]["resourceVersion"]
    assert after != before
    wait_until(
        lambda: "look" in jobs.get("ptj", "prose")["metadata"]["annotations"],
        "the annotation",
        seconds=5,
    )
    assert jobs.get("ptj", "prose")["metadata"]["resourceVersion"] == after
