"""From the API server's JSON to the facts that matter."""

from typing import Any

from support.views import at
from troika_operator.parsing import view_job, view_pod
from troika_operator.views import Said


def pod(status: dict[str, Any], **meta: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "p",
            "uid": "u",
            "resourceVersion": "7",
            "creationTimestamp": "2026-11-24T12:00:00Z",
            "labels": {"troika.dev/attempt": "3"},
            "annotations": {"batch.kubernetes.io/job-completion-index": "1"},
            "ownerReferences": [{"uid": "job", "controller": True}],
            **meta,
        },
        "spec": {"nodeName": "n1"},
        "status": status,
    }


def container(name: str = "trainer", **state: Any) -> dict[str, Any]:
    return {"name": name, "state": state}


def test_a_running_pod() -> None:
    view = view_pod(
        pod(
            {
                "phase": "Running",
                "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [container(running={})],
            }
        )
    )
    assert (view.attempt, view.index, view.version, view.job_uid) == (3, 1, 7, "job")
    assert (view.running, view.ready, view.scheduled, view.ip) == (True, True, True, "10.0.0.1")


def test_deletion_began_a_grace_period_before_its_end() -> None:
    view = view_pod(
        pod(
            {"phase": "Running"},
            deletionTimestamp="2026-11-24T12:02:10Z",
            deletionGracePeriodSeconds=120,
        )
    )
    assert (view.deleted, view.gone_by) == (at(10), at(130))


def test_an_exit_with_its_words() -> None:
    ended = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-24T12:01:00Z"}
    view = view_pod(pod({"phase": "Failed", "containerStatuses": [container(terminated=ended)]}))
    assert view.exit is not None
    assert (view.exit.code, view.exit.reason, view.exit.time) == (137, "OOMKilled", at(60))
    assert view.finished


def test_the_container_of_another_counts_only_if_ours_never_ran() -> None:
    broken = container("init", terminated={"exitCode": 3})
    waiting = container(waiting={"reason": "PodInitializing"})
    status = {"phase": "Failed", "initContainerStatuses": [broken]}
    view = view_pod(pod({**status, "containerStatuses": [waiting]}))
    assert view.exit is not None
    assert view.exit.code == 3
    view = view_pod(pod({**status, "containerStatuses": [container(running={})]}))
    assert view.exit is None


def test_a_disrupted_pod() -> None:
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "drained",
        "lastTransitionTime": "2026-11-24T12:00:05Z",
    }
    view = view_pod(pod({"conditions": [condition]}))
    assert view.disrupted == Said("EvictionByEvictionAPI", "drained", at(5))


def job(status: dict[str, Any], **spec: Any) -> dict[str, Any]:
    meta = {"name": "j", "uid": "u", "creationTimestamp": "2026-11-24T12:00:00Z"}
    return {"metadata": meta, "spec": {"parallelism": 2, **spec}, "status": status}


def test_a_job_is_given_up_before_its_pods_are_gone() -> None:
    condition = {"type": "FailureTarget", "status": "True", "reason": "BackoffLimitExceeded"}
    view = view_job(job({"conditions": [condition]}))
    assert view.failed == Said("BackoffLimitExceeded")
    assert not view.complete


def test_a_suspended_job_has_not_started() -> None:
    view = view_job(job({}, suspend=True))
    assert (view.suspended, view.started) == (True, None)
    assert view.shape.nodes == 2
