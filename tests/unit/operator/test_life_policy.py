"""decide(), one behaviour a test: what users change or limit, and the records that stay."""

from dataclasses import replace
from typing import Any

from support.story import Story, running, succeed_word, training
from support.views import START, at, exited, pending, pod_view, pretrain, said
from troika_api.contract import FailureClass, LastWord, SavedCheckpoint
from troika_api.v1alpha1.status import ConditionType, JobStatus, Outcome, Phase
from troika_operator.plan import Report
from troika_operator.resources.attempt import Shape

# Suspend, resize, deadlines, TTL


def test_suspend_writes_the_end_down_then_deletes_the_job_and_waits_for_its_pods() -> None:
    story = running()
    story.job.spec.policy.suspend = True
    story.look(60)
    assert story.phase() is Phase.SUSPENDING
    assert story.newest.outcome is Outcome.SUSPENDED
    assert story.deleted == ["Job/bert-prose-ptj-a0"]
    point = SavedCheckpoint(step=30, time=at(65).timestamp(), path="/x")
    saved = training(30, checkpoint=point, tokens_per_second=9.0, eta_seconds=9.0)
    word = LastWord(outcome="Terminated", status=saved)
    story.see_pods(
        pod_view(0, exit=exited(143, word=word), gone_by=at(180)), pod_view(1, gone_by=at(180))
    )
    story.look(65)
    assert story.phase() is Phase.SUSPENDING
    story.see_pods()
    story.look(66)
    assert story.phase() is Phase.SUSPENDED
    assert story.condition(ConditionType.SUSPENDED).status == "True"
    assert story.status.checkpoint is not None
    assert story.status.checkpoint.step == 30
    assert story.newest.last_step == 30
    assert story.status.failures == {}
    assert story.status.throughput is None
    assert story.status.progress is not None
    assert (story.status.progress.eta, story.status.progress.stage) == (None, None)


def test_a_pod_of_a_dead_node_is_not_waited_for() -> None:
    story = running()
    story.job.spec.policy.suspend = True
    story.see_pods(pod_view(0, gone_by=at(70)))
    story.look(60)
    assert story.phase() is Phase.SUSPENDING
    assert story.look(71).requeue_after is None
    assert story.phase() is Phase.SUSPENDED


def test_resume_is_a_new_attempt_that_counts_neither_as_restart_nor_as_time() -> None:
    story = running(spec__policy__deadline="100s")
    story.job.spec.policy.suspend = True
    story.look(60)
    story.see_pods()
    story.look(61)
    story.job.spec.policy.suspend = False
    story.look(1061)
    assert story.newest.number == 1
    assert (story.status.suspended_seconds, story.status.restarts) == (1000, 0)
    assert story.phase() is Phase.STARTING
    assert story.condition(ConditionType.SUSPENDED).status == "False"
    story.run(1, seconds=1090)
    assert story.phase() is Phase.RUNNING
    story.look(1101)
    assert story.phase() is Phase.FAILED


def test_a_new_leader_whose_clock_is_behind_does_not_count_time_backwards() -> None:
    story = running()
    story.job.spec.policy.suspend = True
    story.look(60)
    story.see_pods()
    story.look(61)
    story.job.spec.policy.suspend = False
    story.look(58)
    assert story.status.suspended_seconds == 0
    story.look(60)
    assert story.newest.number == 1


def test_a_job_that_is_born_suspended_makes_nothing_until_it_is_resumed() -> None:
    story = Story(pretrain(spec__policy__suspend=True))
    story.look(0)
    assert story.phase() is Phase.SUSPENDED
    assert story.created == []
    story.job.spec.policy.suspend = False
    story.look(10)
    assert story.newest.number == 0


def test_a_new_size_ends_the_attempt_and_the_next_one_has_it() -> None:
    story = running()
    story.job.spec.compute.nodes = 3
    story.look(60)
    assert story.status.attempts[0].outcome is Outcome.RESIZED
    assert story.phase() is Phase.RESTARTING
    assert story.deleted == ["Job/bert-prose-ptj-a0"]
    assert len(story.created) == 1
    story.see_pods()
    story.look(62)
    assert story.newest.nodes == 3
    assert story.created[1]["spec"]["parallelism"] == 3
    assert story.status.restarts == 0


def test_a_job_that_is_not_done_by_its_deadline_fails() -> None:
    story = running(spec__policy__deadline="1h")
    story.see(report=Report(training(5), moved=at(3590)))
    story.look(3599)
    assert story.phase() is Phase.RUNNING
    story.look(3600)
    assert story.phase() is Phase.FAILED
    assert story.condition(ConditionType.FAILED).reason == "Deadline"
    assert story.deleted == ["Job/bert-prose-ptj-a0"]


def test_pods_that_do_not_start_in_time_fail_the_job_with_what_held_them_up() -> None:
    story = Story(pretrain(spec__policy__startupDeadline="5m"))
    story.look(0)
    stuck: dict[str, Any] = {
        "scheduled": True,
        "waiting": said("ImagePullBackOff", "no such image"),
    }
    story.see_pods(pending(0, **stuck), pod_view(1))
    assert story.look(10).requeue_after == 290
    story.look(300)
    assert story.condition(ConditionType.FAILED).reason == "Startup"
    assert "no such image" in (story.status.reason or "")
    assert story.deleted == ["Job/bert-prose-ptj-a0"]


def test_time_in_a_queue_does_not_count_as_startup() -> None:
    story = Story(pretrain(spec__policy__startupDeadline="5m", spec__compute__queue="q"))
    story.look(0)
    story.look(4000)
    assert story.phase() is Phase.QUEUED
    story.see_job(suspended=False, started=at(4000))
    story.see_pods(pending(0), pending(1))
    assert story.look(4001).requeue_after == 299


def test_children_are_removed_after_the_ttl_and_never_made_again() -> None:
    story = running(spec__policy__ttlAfterFinished="1h")
    story.see_pods(pod_view(0, exit=exited(0, word=succeed_word())), pod_view(1, exit=exited(0)))
    story.see_job(complete=True)
    assert story.look(100).requeue_after == 3600
    assert story.deleted == []
    story.look(3700)
    service, config, job = story.deleted
    assert (service, job) == ("Service/bert-prose-ptj", "Job/bert-prose-ptj-a0")
    volumes = story.created[0]["spec"]["template"]["spec"]["volumes"]
    assert config == f"ConfigMap/{volumes[0]['configMap']['name']}"
    before = story.patches
    story.see_pods()
    story.look(4000)
    assert len(story.created) == 1
    assert story.patches == before


def test_a_job_that_takes_its_time_to_go_is_deleted_once() -> None:
    story = running(spec__policy__ttlAfterFinished="1h")
    story.see_pods(pod_view(0, exit=exited(0, word=succeed_word())), pod_view(1, exit=exited(0)))
    story.see_job(complete=True)
    story.look(100)
    story.see_job(deleting=True)
    story.look(3700)
    assert story.deleted == []


def test_what_a_failed_job_leaves_goes_with_its_last_job() -> None:
    story = running(spec__policy__ttlAfterFinished="1h", spec__policy__deadline="1h")
    story.look(3600)
    assert story.phase() is Phase.FAILED
    service, config, job = story.deleted
    assert (service, job) == ("Service/bert-prose-ptj", "Job/bert-prose-ptj-a0")
    assert config.startswith("ConfigMap/bert-prose-ptj-run-")
    story.look(7200)
    assert len(story.deleted) == 3


def test_the_log_of_a_failed_job_stays_for_the_ttl() -> None:
    story = running(spec__policy__ttlAfterFinished="1h")
    story.see_pods(pod_view(0, exit=exited(10)), pod_view(1))
    assert story.look(100).requeue_after == 3600
    assert story.deleted == []
    story.look(3700)
    assert len(story.deleted) == 3


# A spec that no schema could refuse


def test_an_invalid_job_says_what_is_wrong_and_starts_when_it_is_mended() -> None:
    story = Story(pretrain(spec__compute__env=[{"name": "TROIKA_ATTEMPT", "value": "7"}]))
    story.look(0)
    assert story.phase() is Phase.INVALID
    valid = story.condition(ConditionType.VALID)
    assert (valid.status, valid.reason) == ("False", "InvalidSpec")
    assert "spec.compute.env: TROIKA_ATTEMPT" in valid.message
    assert story.created == []
    story.job.spec.compute.env = []
    story.look(1)
    assert story.condition(ConditionType.VALID).status == "True"
    assert story.newest.number == 0


def test_mistakes_without_end_fit_the_status() -> None:
    labels = {f"k8s.io/{number}{'a' * 60}": "x" for number in range(32)}
    story = Story(pretrain(spec__compute__labels=labels))
    story.look(0)
    assert story.phase() is Phase.INVALID
    assert (story.status.reason or "").startswith("spec.compute.labels: k8s.io/0aaa")


def test_a_spec_that_becomes_invalid_does_not_end_what_runs() -> None:
    story = running()
    story.job.spec.compute.labels = {"troika.dev/job-name": "x"}
    story.look(60)
    assert story.phase() is Phase.RUNNING
    assert story.condition(ConditionType.VALID).status == "False"
    story.see_pods(pod_view(0, exit=exited(1)), pod_view(1))
    story.look(70)
    story.look(120)
    assert story.phase() is Phase.INVALID
    assert len(story.created) == 1


def test_a_new_size_that_could_not_run_waits_and_does_not_end_what_runs() -> None:
    """An attempt of three sharded ranks would end the job: 64 sequences are no multiple of 3."""
    story = running(spec__training__sharding="FSDP")
    story.job.spec.compute.nodes = 3
    story.look(60)
    assert story.phase() is Phase.RUNNING
    assert "3 ranks do not divide" in story.condition(ConditionType.VALID).message
    assert (story.newest.number, story.newest.outcome) == (0, Outcome.RUNNING)
    story.job.spec.compute.nodes = 4
    story.look(70)
    story.see_pods()
    story.look(72)
    assert story.condition(ConditionType.VALID).status == "True"
    assert (story.newest.number, story.newest.nodes) == (1, 4)


# Records


def test_a_job_that_exists_without_a_record_is_adopted_as_it_is() -> None:
    story = Story(pretrain())
    shape = Shape(4, nodes=2, processes_per_node=1, micro_batch_divisor=8)
    story.look(0)
    view = replace(story.observed.jobs[0], shape=shape, created=at(3))
    story.job.status = JobStatus()
    story.see(jobs={4: view})
    story.look(10)
    record = story.newest
    assert (record.number, record.nodes, record.processes_per_node) == (4, 2, 1)
    assert record.micro_batch_divisor == 8
    assert record.started == at(3)
    assert story.status.started == at(3)


def test_records_are_bounded_and_numbers_keep_counting() -> None:
    story = Story(pretrain())
    story.look(0)
    for number in range(30):
        story.run(number, seconds=number * 2000 + 10)
        story.see(report=Report(training(5, attempt=number), moved=story.now))
        story.look(number * 2000 + 20)
        story.see_pods(
            pod_view(0, number, disrupted=said("PreemptionByScheduler", when=number * 2000 + 50))
        )
        story.look(number * 2000 + 60)
        story.see_pods()
        story.look(number * 2000 + 61)
    assert story.newest.number == 30
    assert len(story.status.attempts) == 20
    assert story.status.failures == {"Preempted": 30}
    assert story.status.restarts == 30
    assert story.status.started == START


def test_goodput_counts_what_a_checkpoint_holds() -> None:
    story = running(spec__compute__gpusPerNode=8, spec__training__globalBatchSize=64)
    half = training(
        100,
        total_steps=1000,
        training_seconds=1800.0,
        checkpoint=SavedCheckpoint(step=50, time=at(1000).timestamp(), path="/x"),
    )
    story.see(report=Report(half, moved=at(3590)))
    story.look(3590)
    assert story.status.gpus == 16
    story.see_pods(pod_view(0, exit=exited(1, 3600)), pod_view(1))
    story.look(3600)
    goodput = story.status.goodput
    assert goodput is not None
    assert goodput.gpu_hours == 16.0
    assert goodput.wasted_gpu_hours == 12.0
    assert goodput.ratio == 0.25


def test_class_of_a_failure_is_kept_with_the_attempt() -> None:
    story = running()
    word = LastWord(outcome="Failed", failure=FailureClass.BAD_DATA, message="row 7", rank=3)
    story.see_pods(pod_view(0, exit=exited(11, word=word)), pod_view(1))
    story.look(60)
    failure = story.newest.failure
    assert failure is not None
    assert (failure.class_, failure.rank, failure.exit_code) == (FailureClass.BAD_DATA, 3, 11)
    assert story.phase() is Phase.FAILED
    assert "row 7" in (story.status.reason or "")
