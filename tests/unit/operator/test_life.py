"""decide(), one behaviour a test: a job from apply to its end."""

from typing import Any

from support.story import Story, running, succeed_word, training
from support.views import at, exited, finetune, pending, pod_view, pretrain, said
from troika_api.contract import Evaluation
from troika_api.v1alpha1.status import ConditionType, JobStatus, ModelStatus, Outcome, Phase
from troika_operator.plan import Report, Source

# The good case


def test_a_new_job_becomes_an_attempt_and_one_status_patch() -> None:
    story = Story(pretrain())
    story.look(0)
    assert [made["metadata"]["name"] for made in story.created] == ["bert-prose-ptj-a0"]
    assert story.patches == 1
    assert story.phase() is Phase.STARTING
    assert story.condition(ConditionType.VALID).status == "True"
    assert [(a.number, a.nodes, a.outcome) for a in story.status.attempts] == [
        (0, 2, Outcome.RUNNING)
    ]


def test_running_means_that_every_pod_runs() -> None:
    story = Story(pretrain())
    story.look(0)
    story.see_pods(pod_view(0), pending(1))
    story.look(2)
    assert story.phase() is Phase.STARTING
    assert story.condition(ConditionType.RUNNING).status == "False"
    story.run()
    assert story.phase() is Phase.RUNNING
    assert story.status.reason == "the trainer starts", "it has said nothing yet"
    assert story.condition(ConditionType.RUNNING).status == "True"
    assert story.condition(ConditionType.SCHEDULED).status == "True"


def test_rank_zero_is_polled_once_its_container_runs() -> None:
    story = Story(pretrain())
    assert story.look(0).poll is None
    target = story.run().poll
    assert target is not None
    assert (target.ip, target.attempt) == ("10.0.0.1", 0)


def test_progress_is_taken_over() -> None:
    story = running()
    story.see(report=Report(training(45, loss=2.345678, eta_seconds=75), moved=at(20)))
    story.look(20)
    progress = story.status.progress
    assert progress is not None
    assert (progress.step, progress.percent, progress.loss, progress.eta) == (
        45,
        "45.0%",
        2.3457,
        "1m15s",
    )
    assert (story.newest.first_step, story.newest.last_step) == (1, 45)


def test_what_an_earlier_attempt_said_is_not_progress() -> None:
    story = running()
    story.see(report=Report(training(45, attempt=7), moved=at(20)))
    story.look(20)
    assert story.status.progress is None


def test_a_trainer_that_falls_silent_has_no_speed() -> None:
    story = running()
    said_last = training(45, tokens_per_second=100.0, eta_seconds=60.0)
    story.see(report=Report(said_last, moved=at(20)))
    story.look(20)
    assert story.status.throughput is not None
    story.see(report=Report(said_last, moved=at(20), silent=True))
    story.look(90)
    assert story.status.throughput is None
    assert story.status.progress is not None
    assert (story.status.progress.step, story.status.progress.eta) == (45, None)
    assert story.status.reason == "running, but rank 0 does not answer"


def test_pods_of_an_earlier_job_of_the_name_are_waited_for() -> None:
    story = Story(pretrain())
    story.see_pods(pod_view(0, gone_by=at(100)))
    assert story.look(0).requeue_after == 100
    assert story.phase() is Phase.PENDING
    assert story.created == []
    story.see_pods()
    story.look(50)
    assert story.newest.number == 0


def test_a_complete_job_keeps_the_last_word() -> None:
    story = running()
    word = succeed_word(evaluation=Evaluation(split="validation", metrics={"loss": 1.987654}))
    story.see_pods(pod_view(0, exit=exited(0, word=word)), pod_view(1, exit=exited(0)))
    story.see_job(complete=True)
    story.look(100)
    status = story.status
    assert status.phase is Phase.SUCCEEDED
    assert story.condition(ConditionType.COMPLETE).status == "True"
    assert status.model == ModelStatus(uri="pvc://models/bert-prose")
    assert status.evaluation is not None
    assert status.evaluation.metrics == {"loss": 1.9877}
    assert status.progress is not None
    assert (status.progress.step, status.progress.percent) == (100, "100%")
    assert status.throughput is not None
    assert status.throughput.tokens_per_second == 1000
    assert status.reason == "100 steps in 1m40s; model in pvc://models/bert-prose"
    assert (status.gpus, story.newest.outcome) == (0, Outcome.SUCCEEDED)
    assert story.deleted == []


def test_the_last_word_may_come_after_the_news_that_the_job_is_complete() -> None:
    story = running()
    story.see_job(complete=True, completed=at(90))
    assert story.look(91).requeue_after == 29
    assert story.phase() is Phase.RUNNING
    story.see_pods(pod_view(0, exit=exited(0, word=succeed_word())), pod_view(1, exit=exited(0)))
    story.look(92)
    assert story.phase() is Phase.SUCCEEDED
    assert story.status.progress is not None


def test_a_last_word_that_never_comes_does_not_hold_the_job_up() -> None:
    story = running()
    story.see_job(complete=True, completed=at(90))
    story.look(120)
    assert story.phase() is Phase.SUCCEEDED


def test_a_complete_job_whose_pods_are_gone_says_what_is_known() -> None:
    story = running()
    story.see_pods()
    story.see_job(complete=True)
    story.look(100)
    assert story.phase() is Phase.SUCCEEDED
    assert story.status.model == ModelStatus(uri="pvc://models/bert-prose")
    assert "was gone" in (story.status.reason or "")


def test_a_life_without_faults_takes_five_status_patches_at_most() -> None:
    story = Story(pretrain())
    story.look(0)
    story.see_pods(pending(0), pending(1))
    story.look(1)
    placed: dict[str, Any] = {"scheduled": True, "waiting": said("ContainerCreating")}
    story.see_pods(pending(0, **placed), pending(1))
    story.look(1.5)
    story.see_pods(pending(0, **placed), pending(1, **placed))
    story.look(2)
    story.see_pods(pod_view(0), pending(1, **placed))
    story.look(3)
    story.run()
    story.see_pods(pod_view(0, exit=exited(0, word=succeed_word())), pod_view(1))
    story.look(90)
    story.see_job(complete=True)
    story.look(100)
    assert story.phase() is Phase.SUCCEEDED
    assert story.patches <= 5


def test_nothing_changed_means_nothing_to_write() -> None:
    story = running()
    before = story.patches
    for seconds in (6, 60, 600):
        story.look(seconds)
    assert story.patches == before


def test_a_deleted_job_is_left_to_the_garbage_collector() -> None:
    story = Story(pretrain(metadata__deletionTimestamp="2026-11-24T12:00:00Z"))
    story.look(0)
    assert story.created == []
    assert story.patches == 0


# Why it waits


def source(**status: Any) -> Source:
    body = JobStatus.model_validate({"conditions": [], **status})
    return Source("PretrainJob", "bert-prose", exists=True, status=body, output_uri="pvc://m/out")


def condition(kind: str) -> list[dict[str, str]]:
    stamp = "2026-11-24T12:00:00Z"
    return [{"type": kind, "status": "True", "reason": "X", "lastTransitionTime": stamp}]


def test_a_job_waits_for_one_that_is_not_there_yet() -> None:
    story = Story(finetune())
    story.see(source=Source("PretrainJob", "bert-prose"))
    plan = story.look(0)
    assert story.phase() is Phase.WAITING
    assert story.status.reason == "waiting for PretrainJob bert-prose, which does not exist yet"
    assert plan.requeue_after == 60


def test_a_job_says_how_far_the_awaited_one_is() -> None:
    story = Story(finetune())
    story.see(source=source(phase="Running", progress={"step": 30, "totalSteps": 400}))
    story.look(0)
    assert story.status.reason == (
        "waiting for PretrainJob bert-prose, which is Running at step 30 of 400"
    )


def test_the_model_of_a_complete_job_is_mounted_and_remembered() -> None:
    story = Story(finetune())
    done = source(conditions=condition("Complete"), model={"uri": "pvc://made/bert"})
    story.see(source=done)
    story.look(0)
    assert story.status.base_model == ModelStatus(uri="pvc://made/bert")
    volumes = story.created[0]["spec"]["template"]["spec"]["volumes"]
    assert "pvc-made" in {volume["name"] for volume in volumes}
    story.see(source=Source("PretrainJob", "bert-prose"))
    story.see_pods(pod_view(0, exit=exited(1)), pod_view(1))
    story.look(60)
    story.look(90)
    assert story.newest.number == 1


def test_a_job_fails_with_the_one_that_it_waits_for() -> None:
    story = Story(finetune())
    story.see(source=source(conditions=condition("Failed"), reason="BadData: no rows"))
    story.look(0)
    assert story.phase() is Phase.FAILED
    assert story.condition(ConditionType.FAILED).reason == "ModelUnavailable"
    assert "no rows" in (story.status.reason or "")
