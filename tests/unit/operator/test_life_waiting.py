"""decide(), one behaviour a test: what an attempt waits for, and what it holds meanwhile."""

from typing import Any

import pytest

from support.story import Story, running, training
from support.views import at, pending, pod_view, pretrain, said
from troika_api.v1alpha1.status import ConditionType, Outcome, Phase
from troika_operator.plan import Report
from troika_operator.views import GroupView


@pytest.mark.parametrize(
    ("pod", "word", "text"),
    [
        (
            {
                "unschedulable": said(
                    "Unschedulable", "0/3 nodes are available: 3 Insufficient cpu."
                )
            },
            "Unschedulable",
            "0/3 nodes are available",
        ),
        (
            {"unschedulable": said("Unschedulable", 'persistentvolumeclaim "corpus" not found')},
            "Unschedulable",
            'persistentvolumeclaim "corpus" not found',
        ),
        (
            {
                "scheduled": True,
                "waiting": said("ErrImagePull", "pull access denied for nope"),
            },
            "ImagePullBackOff",
            "pull access denied for nope",
        ),
        (
            {
                "scheduled": True,
                "waiting": said(
                    "ImagePullBackOff",
                    'Back-off pulling image "nope": ErrImagePull: pull access denied for nope',
                ),
            },
            "ImagePullBackOff",
            "pull access denied for nope",
        ),
        (
            {
                "scheduled": True,
                "waiting": said("CreateContainerConfigError", 'secret "x" not found'),
            },
            "CreateContainerConfigError",
            'secret "x" not found',
        ),
    ],
)
def test_the_reason_says_what_holds_the_pods_up(pod: dict[str, Any], word: str, text: str) -> None:
    story = Story(pretrain())
    story.look(0)
    story.see_pods(pending(0, **pod), pending(1))
    story.look(70)
    assert story.phase() is Phase.STARTING
    assert text in (story.status.reason or "")
    assert "Back-off" not in (story.status.reason or "")
    assert story.condition(ConditionType.SCHEDULED).status == "False"
    assert story.condition(ConditionType.SCHEDULED).reason == word


@pytest.mark.parametrize(
    "more",
    [".", ". preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."],
)
def test_where_nodes_have_too_little_the_reason_says_what_each_pod_asks_for(more: str) -> None:
    story = Story(pretrain(spec__compute__gpusPerNode=8))
    story.look(0)
    text = f"0/3 nodes are available: 3 Insufficient nvidia.com/gpu{more}"
    story.see_pods(pending(0, unschedulable=said("Unschedulable", text)), pending(1))
    story.look(70)
    assert story.status.reason == (
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu; "
        "each of 2 pod(s) asks for nvidia.com/gpu 8, cpu 4, memory 8Gi"
    )


def test_pods_without_a_node_hold_no_gpus() -> None:
    story = Story(pretrain(spec__compute__gpusPerNode=8))
    story.look(0)
    story.see_pods(pending(0), pending(1))
    story.look(2)
    assert story.status.gpus == 0
    story.see_pods(pod_view(0), pending(1, unschedulable=said("Unschedulable", "full", when=2)))
    story.look(4)
    assert story.status.gpus == 8
    story.run()
    assert story.status.gpus == 16


def test_a_gang_that_is_just_getting_its_nodes_is_not_counted_pod_by_pod() -> None:
    story = Story(pretrain(spec__compute__gpusPerNode=8))
    story.look(0)
    story.see_pods(pod_view(0), pending(1))
    story.look(1)
    assert story.status.gpus == 0
    story.see_pods(pod_view(0), pod_view(1))
    story.look(1)
    assert story.status.gpus == 16


def test_a_start_anew_in_the_pod_is_told_with_its_cause() -> None:
    story = running()
    said_now = training(
        0, stage="Loading", started_again="cannot read /mnt/troika/corpus/a: no answer"
    )
    story.see(report=Report(said_now, moved=at(20)))
    story.look(20)
    assert story.status.reason == (
        "Loading; started again in its pod after: cannot read pvc://corpus/a: no answer"
    )


def test_the_gang_says_why_it_is_not_placed() -> None:
    story = Story(pretrain())
    story.look(0)
    group = GroupView(
        "g", "g", 1, "", 0, unschedulable=said("Unschedulable", "gang of 2, room for 1")
    )
    story.see(groups={0: group})
    story.see_pods(pending(0), pending(1))
    story.look(70)
    assert story.status.reason == "gang of 2, room for 1"


def test_what_the_scheduler_says_of_a_gang_that_is_not_all_there_yet_is_no_news() -> None:
    story = Story(pretrain())
    story.look(0)
    story.see_pods(pending(0, unschedulable=said("Unschedulable", "gang of 2, saw 1", when=1)))
    assert story.look(1).requeue_after == 2
    assert story.status.reason == "starting 2 pod(s)"
    story.look(3)
    assert story.status.reason == "gang of 2, saw 1"


def test_a_pod_of_a_gang_that_comes_late_gives_the_scheduler_time_again() -> None:
    story = Story(pretrain())
    story.look(0)
    first = pending(0, unschedulable=said("Unschedulable", "gang of 2, saw 1", when=1))
    story.see_pods(first, pending(1, created=at(3)))
    assert story.look(3).requeue_after == 2
    assert story.status.reason == "starting 2 pod(s)"
    story.look(5)
    assert story.status.reason == "gang of 2, saw 1"


def test_claims_are_named_where_the_scheduler_itself_fails() -> None:
    story = Story(pretrain())
    story.look(0)
    story.see_pods(
        pending(0, unschedulable=said("SchedulerError", "plugins: not found")), pending(1)
    )
    story.look(70)
    reason = story.status.reason or ""
    assert "plugins: not found" in reason
    assert reason.endswith("check that these claims exist: corpus, models")


def test_a_queued_job_is_suspended_at_birth_and_says_where_it_waits() -> None:
    story = Story(pretrain(spec__compute__queue="research"))
    story.look(0)
    assert story.created[0]["spec"]["suspend"] is True
    assert story.created[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert story.phase() is Phase.QUEUED
    assert story.status.reason == "waiting in queue research for admission"
    assert story.status.gpus == 0
    story.see_job(suspended=False, started=at(50))
    story.run(seconds=55)
    assert story.phase() is Phase.RUNNING


def test_pods_that_are_seen_before_the_admission_of_their_job_are_no_eviction() -> None:
    story = Story(pretrain(spec__compute__queue="research"))
    story.look(0)
    story.see_pods(pending(0, created=at(60)), pending(1, created=at(60)))
    story.look(60)
    assert story.phase() is Phase.QUEUED
    assert story.deleted == []
    story.see_job(suspended=False, started=at(60))
    story.look(61)
    assert story.phase() is Phase.STARTING
    story.see_job(suspended=True, started=None)
    story.look(62)
    assert story.status.attempts[0].outcome is Outcome.PREEMPTED, "seen as admitted before"


def test_a_queue_that_takes_its_place_back_ends_the_attempt_for_free() -> None:
    story = Story(pretrain(spec__compute__queue="research"))
    story.look(0)
    story.see_job(suspended=False, started=at(1))
    story.run()
    story.see_job(suspended=True)
    story.look(60)
    assert story.status.attempts[0].outcome is Outcome.PREEMPTED
    assert story.status.failures == {"Preempted": 1}
    assert "Job/bert-prose-ptj-a0" in story.deleted
    story.see_pods()
    story.look(61)
    assert story.newest.number == 1
    assert story.phase() is Phase.QUEUED


def test_pods_that_cannot_be_made_are_explained() -> None:
    story = Story(pretrain())
    assert story.look(0).requeue_after == 10
    story.see(complaint="Error creating: pods is forbidden: exceeded quota: cpu")
    story.look(10)
    assert story.phase() is Phase.STARTING
    assert "exceeded quota: cpu" in (story.status.reason or "")
    assert story.condition(ConditionType.SCHEDULED).reason == "PodsRefused"
    story.run()
    assert story.phase() is Phase.RUNNING


def test_a_refused_job_says_who_refused_it_and_why() -> None:
    story = Story(pretrain())
    story.see(refusal="Job bert-prose-ptj-a0 was refused: exceeded quota: gpus")
    plan = story.plans[-1] if story._once() else None
    assert plan is not None
    assert story.phase() is Phase.PENDING
    assert "exceeded quota" in (story.status.reason or "")
    assert plan.start is not None


# Another job's model
