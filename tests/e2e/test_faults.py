"""What goes wrong in a cluster, done to real pods: the job goes on, and the status says why."""

import itertools

import pytest

from e2e.harness import Jobs
from e2e.manifests import pretrain
from support.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

STEPS = 300
"""Some twenty seconds: a status is a second old, and whoever interferes needs another."""
INTERVAL = 50


def checkpoint(name: str) -> dict[str, str]:
    """Where and how often a job of these tests saves."""
    return {"uri": f"pvc://e2e/run/{name}", "interval": f"{INTERVAL}steps"}


def test_a_killed_pod_costs_at_most_one_interval_and_changes_nothing(jobs: Jobs) -> None:
    quiet = jobs.apply(pretrain("quiet", steps=STEPS, checkpoint=checkpoint("quiet")))
    expected = jobs.wait("ptj", quiet, "Complete", timeout=240)

    jobs.apply(pretrain("killed", steps=STEPS, checkpoint=checkpoint("killed")))
    reached = jobs.wait_for_step("ptj", "killed", 2 * INTERVAL + 5, timeout=180)
    victim = jobs.pods("killed")[1]["metadata"]["name"]
    jobs.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
    steps = [reached]

    def watched() -> bool:
        steps.append(jobs.step("ptj", "killed"))
        done = jobs.condition("ptj", "killed", "Complete")
        return done is not None and done["status"] == "True"

    wait_until(watched, "completion of the killed job", seconds=240)
    status = jobs.status("ptj", "killed")
    drops = [earlier - later for earlier, later in itertools.pairwise(steps)]
    assert max(drops) <= INTERVAL
    assert len(status["attempts"]) == 2
    assert status["attempts"][0]["outcome"] in ("Preempted", "Failed")
    assert status["attempts"][1]["firstStep"] >= reached - INTERVAL
    assert status["evaluation"]["metrics"]["loss"] == pytest.approx(
        expected["evaluation"]["metrics"]["loss"], abs=1e-4
    )
    assert status["progress"]["loss"] == pytest.approx(expected["progress"]["loss"], abs=1e-4)


def test_a_killed_process_is_started_again_in_its_pod(jobs: Jobs) -> None:
    jobs.apply(pretrain("process", steps=STEPS, checkpoint=checkpoint("process")))
    jobs.wait_for_step("ptj", "process", INTERVAL + 2, timeout=180)
    pod = jobs.pods("process")[0]["metadata"]["name"]
    kill = (
        "import os, pathlib, signal\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "    line = (p / 'cmdline').read_bytes().decode().split('\\0')\n"
        "    if 'troika_trainer' in line and int(p.name) != os.getpid():\n"
        "        os.kill(int(p.name), signal.SIGKILL); print(p.name)\n"
    )
    killed = jobs.kubectl("exec", pod, "--", "python", "-c", kill)
    assert killed.split(), "no trainer process was found"
    status = jobs.wait("ptj", "process", "Complete", timeout=240)
    assert [attempt["outcome"] for attempt in status["attempts"]] == ["Succeeded"]


def test_suspend_saves_and_resume_goes_on_from_that_step(jobs: Jobs) -> None:
    jobs.apply(
        pretrain(
            "paused", steps=STEPS, checkpoint={"uri": "pvc://e2e/run/paused", "interval": "1h"}
        )
    )
    jobs.wait_for_step("ptj", "paused", 5, timeout=180)
    jobs.patch("ptj", "paused", {"policy": {"suspend": True}})
    status = jobs.wait("ptj", "paused", "Suspended", timeout=120)
    assert status["phase"] == "Suspended"
    wait_until(lambda: not jobs.pods("paused"), "end of the pods", seconds=30)
    stopped_at = status["attempts"][-1]["lastStep"]
    assert 5 <= stopped_at < STEPS
    jobs.patch("ptj", "paused", {"policy": {"suspend": False}})
    status = jobs.wait("ptj", "paused", "Complete", timeout=240)
    assert status["restarts"] == 0
    assert status["attempts"][-1]["firstStep"] == stopped_at + 1


def test_bad_data_ends_the_job_at_once_with_file_and_line(jobs: Jobs) -> None:
    manifest = pretrain("broken")
    manifest["spec"]["data"]["train"]["uri"] = "pvc://e2e/broken.jsonl"
    jobs.apply(manifest)
    status = jobs.wait("ptj", "broken", "Failed", timeout=180)
    (attempt,) = status["attempts"]
    assert attempt["failure"]["class"] == "BadData"
    assert "broken.jsonl" in status["reason"]
    assert "11" in status["reason"]
    assert attempt["failure"]["remedy"]


def test_an_unknown_architecture_ends_as_bad_config(jobs: Jobs) -> None:
    manifest = pretrain("unknown", nodes=1)
    manifest["spec"]["model"]["config"]["model_type"] = "bertt"
    jobs.apply(manifest)
    status = jobs.wait("ptj", "unknown", "Failed", timeout=180)
    assert status["attempts"][0]["failure"]["class"] == "BadConfig"
    assert "bert" in status["reason"]


def test_a_missing_volume_is_named_while_the_job_waits(jobs: Jobs) -> None:
    jobs.apply(pretrain("novolume", output={"uri": "pvc://nowhere/x"}))
    reason = wait_until(
        lambda: (
            text
            if "nowhere" in (text := jobs.status("ptj", "novolume").get("reason", ""))
            else None
        ),
        "reason that names the claim",
        seconds=60,
    )
    assert "nowhere" in reason
