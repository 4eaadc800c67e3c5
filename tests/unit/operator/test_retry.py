"""What a failure costs, by class, and how long the next attempt waits."""

import pytest

from support.story import Story
from support.views import at, exited, pending, pod_view, pretrain, said
from troika_api.contract import FailureClass, LastWord, TrainerStatus
from troika_api.v1alpha1.status import ConditionType, Outcome, Phase
from troika_operator.plan import Report
from troika_operator.retry import FREE, budget


def crash(story: Story, number: int, seconds: float, code: int = 1) -> None:
    """The attempt comes up and one of its pods exits."""
    story.run(number, seconds=seconds)
    story.see_pods(pod_view(0, number, exit=exited(code, seconds + 5)), pod_view(1, number))
    story.look(seconds + 5)


def test_a_crash_is_followed_by_another_attempt_after_a_wait_that_doubles() -> None:
    story = Story(pretrain())
    story.look(0)
    waits = []
    for number in range(3):
        crash(story, number, number * 1000 + 10)
        assert story.phase() is Phase.RESTARTING
        wait = story.plans[-1].requeue_after
        assert wait is not None
        waits.append(wait)
        story.look(number * 1000 + 15 + wait - 1)
        assert story.newest.number == number
        story.look(number * 1000 + 15 + wait)
        assert story.newest.number == number + 1
    assert waits == [10, 20, 40]
    assert story.status.restarts == 3
    crash(story, 3, 4000)
    assert story.phase() is Phase.FAILED
    assert story.condition(ConditionType.FAILED).reason == "Crash"
    assert "4 failures of this class, 3 retries allowed" in (story.status.reason or "")
    assert story.status.failures == {"Crash": 4}
    assert [a.outcome for a in story.status.attempts] == [Outcome.FAILED] * 4


def test_the_longest_wait_that_can_be_asked_for_is_ten_minutes() -> None:
    story = Story(pretrain(spec__policy__retry={"backoff": "2562047h", "crash": 100}))
    story.look(0)
    for number in range(15):
        crash(story, number, number * 1000 + 10)
        assert story.plans[-1].requeue_after == 600
        story.look(number * 1000 + 900)


def test_the_reason_says_what_failed_and_when_it_goes_on() -> None:
    story = Story(pretrain())
    story.look(0)
    crash(story, 0, 10)
    reason = story.status.reason or ""
    assert reason.startswith("attempt 0 ended: Crash: pod bert-prose-ptj-a0-0-xxxxx on node n0")
    assert reason.endswith("attempt 1 follows at 12:00:25 UTC")


@pytest.mark.parametrize("code", [10, 11, 12])
def test_what_the_same_input_meets_again_is_never_retried(code: int) -> None:
    story = Story(pretrain())
    story.look(0)
    crash(story, 0, 10, code)
    assert story.phase() is Phase.FAILED
    assert len(story.created) == 1


def test_out_of_memory_halves_the_micro_batch_and_stays_there() -> None:
    story = Story(pretrain(spec__policy__retry={"backoff": "1s", "outOfMemory": 2}))
    story.look(0)
    crash(story, 0, 10, 13)
    story.look(100)
    crash(story, 1, 110, 13)
    story.look(200)
    assert [a.micro_batch_divisor for a in story.status.attempts] == [1, 2, 4]
    env = story.created[2]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "TROIKA_MICRO_BATCH_DIVISOR", "value": "4"} in env
    crash(story, 2, 210, 1)
    story.look(400)
    assert story.newest.micro_batch_divisor == 4


def test_a_micro_batch_is_not_halved_below_one_example() -> None:
    story = Story(
        pretrain(
            spec__policy__retry={"backoff": "1s", "outOfMemory": 100},
            spec__training__globalBatchSize=12,
        )
    )
    story.look(0)
    for number in range(6):
        crash(story, number, number * 1000 + 10, 13)
        story.look(number * 1000 + 900)
    divisors = [a.micro_batch_divisor for a in story.status.attempts]
    assert divisors == [1, 2, 4, 8, 12, 12, 12]


def test_budgets_are_apart_by_class() -> None:
    story = Story(pretrain(spec__policy__retry={"backoff": "1s", "crash": 1, "storage": 1}))
    story.look(0)
    crash(story, 0, 10, 1)
    story.look(100)
    crash(story, 1, 110, 15)
    story.look(200)
    assert story.newest.number == 2
    crash(story, 2, 210, 1)
    assert story.phase() is Phase.FAILED


def test_a_budget_may_be_raised_while_the_job_runs() -> None:
    story = Story(pretrain(spec__policy__retry={"crash": 0}))
    story.look(0)
    story.job.spec.policy.retry.crash = 1
    crash(story, 0, 10)
    assert story.phase() is Phase.RESTARTING


def test_preemption_costs_nothing_and_the_next_attempt_waits_only_for_the_pods_to_save() -> None:
    story = Story(pretrain(spec__policy__retry={"crash": 0}))
    story.look(0)
    story.run()
    evicted = said("EvictionByEvictionAPI", "drained", when=30)
    story.see_pods(pod_view(0, disrupted=evicted, gone_by=at(150)), pod_view(1))
    story.look(30)
    assert story.newest.outcome is Outcome.PREEMPTED
    assert story.deleted == ["Job/bert-prose-ptj-a0"]
    assert "save and stop" in (story.status.reason or "")
    story.see_pods()
    story.look(33)
    assert story.newest.number == 1
    assert story.status.restarts == 1
    assert story.status.failures == {"Preempted": 1}


def test_a_lost_node_is_not_waited_for() -> None:
    story = Story(pretrain())
    story.look(0)
    story.run()
    lost = said("DeletionByTaintManager", "unreachable", when=100)
    story.see_pods(pod_view(0, ready=False, disrupted=lost, gone_by=at(220)), pod_view(1))
    story.look(100)
    assert story.newest.number == 1
    assert story.status.failures == {"NodeLost": 1}


def test_a_job_that_was_deleted_by_somebody_comes_back() -> None:
    story = Story(pretrain())
    story.look(0)
    story.run()
    story.see(jobs={}, pods=())
    story.look(30)
    assert story.newest.number == 1
    assert "the Job of attempt 0 was deleted" in (
        (story.status.attempts[0].failure and story.status.attempts[0].failure.message) or ""
    )


def test_attempts_that_are_taken_away_before_a_step_slow_down() -> None:
    story = Story(pretrain())
    story.look(0)
    waits = []
    for number in range(4):
        now = number * 1000 + 10
        story.see_pods(
            pending(0, number, phase="Failed", ended=said("OutOfcpu", "no room")),
            pending(1, number),
        )
        story.look(now)
        story.see_pods()
        wait = story.look(now).requeue_after
        waits.append(wait if story.newest.number == number else 0)
        story.look(now + 700)
    assert waits == [0, 10, 20, 40]


def test_preemption_after_steps_does_not_slow_down() -> None:
    story = Story(pretrain())
    story.look(0)
    for number in range(4):
        now = number * 1000 + 10
        story.run(number, seconds=now)
        step = TrainerStatus(attempt=number, step=10, first_step=5, stage="Training")
        story.see(report=Report(step, moved=story.now))
        story.look(now + 1)
        story.see_pods(pod_view(0, number, disrupted=said("PreemptionByScheduler", when=now + 2)))
        story.look(now + 2)
        story.see_pods()
        story.look(now + 3)
        assert story.newest.number == number + 1


def test_the_jobs_of_the_last_two_failed_attempts_stay_for_their_logs() -> None:
    story = Story(pretrain(spec__policy__retry={"backoff": "1s"}))
    story.look(0)
    for number in range(3):
        crash(story, number, number * 100 + 10)
        story.look(number * 100 + 60)
    assert sorted(story.observed.jobs) == [2, 3]
    assert story.deleted == ["Job/bert-prose-ptj-a0", "Job/bert-prose-ptj-a1"]


def test_a_job_that_counts_its_failure_as_success_does_not_stay_beside_the_next() -> None:
    story = Story(pretrain(spec__policy__retry={"backoff": "1s"}))
    story.look(0)
    word = LastWord(outcome="Failed", failure=FailureClass.STORAGE, message="could not export")
    story.see_pods(pod_view(0, exit=exited(0, word=word)), pod_view(1))
    story.look(100)
    assert story.newest.outcome is Outcome.FAILED
    assert story.deleted == ["Job/bert-prose-ptj-a0"]


def test_every_class_has_a_budget() -> None:
    retry = pretrain().spec.policy.retry
    for kind in FailureClass:
        limit = budget(retry, kind)
        assert limit is None if kind in FREE else limit is not None


# Hangs


def stuck(seconds: float, **changes: object) -> Story:
    story = Story(pretrain(**{"spec__policy__hang": {"after": "10m"}, **changes}))
    story.look(0)
    story.run()
    said_last = TrainerStatus(attempt=0, step=10, first_step=1, stage="Training")
    story.see(report=Report(said_last, moved=at(20)))
    story.look(20)
    story.look(seconds)
    return story


def test_a_job_without_progress_is_started_again() -> None:
    story = stuck(619)
    assert story.phase() is Phase.RUNNING
    assert story.plans[-1].requeue_after == 1
    story.look(620)
    assert story.newest.failure is not None
    assert story.newest.failure.class_ is FailureClass.HANG
    assert story.deleted == ["Job/bert-prose-ptj-a0"]
    assert story.phase() is Phase.RESTARTING


def test_a_hang_may_be_only_said() -> None:
    story = stuck(620, spec__policy__hang={"after": "10m", "action": "Warn"})
    assert story.phase() is Phase.RUNNING
    assert story.condition(ConditionType.STALLED).status == "True"
    moved = TrainerStatus(attempt=0, step=11, first_step=1, stage="Training")
    story.see(report=Report(moved, moved=at(630)))
    story.look(630)
    assert story.condition(ConditionType.STALLED).status == "False"


def test_a_hang_may_end_the_job() -> None:
    story = stuck(620, spec__policy__hang={"after": "10m", "action": "Fail"})
    assert story.phase() is Phase.FAILED
    assert story.condition(ConditionType.FAILED).reason == "Hang"


def test_a_foreign_container_that_never_spoke_is_left_alone() -> None:
    story = Story(pretrain(spec__compute__image="mine", spec__policy__hang={"after": "10m"}))
    story.look(0)
    story.run()
    story.look(100000)
    assert story.phase() is Phase.RUNNING


def test_our_own_container_that_never_spoke_hangs() -> None:
    story = Story(pretrain(spec__policy__hang={"after": "10m"}))
    story.look(0)
    story.run(seconds=5)
    story.look(604)
    assert story.phase() is Phase.RUNNING
    story.look(605)
    assert story.status.failures == {"Hang": 1}


def test_a_new_operator_gives_everyone_the_full_time() -> None:
    story = Story(pretrain(spec__policy__hang={"after": "10m"}))
    story.look(0)
    story.run(seconds=5)
    story.see(watching_since=at(10000))
    story.look(10001)
    assert story.phase() is Phase.RUNNING
