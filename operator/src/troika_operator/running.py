"""Decisions while an attempt is open: does it run, has it ended, and why."""

from datetime import datetime, timedelta

from troika_api.contract import FailureClass
from troika_api.v1alpha1.base import duration_seconds
from troika_api.v1alpha1.policy import HangAction
from troika_api.v1alpha1.status import Attempt, ConditionType, Failure, Outcome, Phase

from . import conditions, ending, explain, report, retry
from .between import after_attempt
from .conditions import Situation
from .draft import Draft, admitted, rank_zero
from .failures import Settling, judge, last_word, named
from .plan import Plan, PollTarget
from .remedies import remedy_for
from .resources.attempt import Shape
from .views import JobView, PodView, Said

PODS_EXIST_IN = timedelta(seconds=3)
"""Pods of an admitted Job that are not there after this time were refused by somebody."""
ASK_AGAIN = timedelta(seconds=10)
LATE_NEWS = timedelta(seconds=30)
"""Longest wait for the last word of a complete Job whose pod is still there."""


def look(draft: Draft, attempt: Attempt) -> Plan:
    """Decide about the open attempt."""
    view = draft.observed.jobs.get(attempt.number)
    if view is None or view.deleting:
        return _taken_away(draft, attempt)
    pods = draft.observed.pods_of(attempt.number)
    if view.complete and (wait := _last_word_is_due(view, pods, draft.now)) is not None:
        draft.wake_at(wait)
        return draft.plan()
    if view.complete and not _denied(pods):
        return ending.succeed(draft, attempt, pods)
    if view.suspended and _was_admitted(draft, pods):
        return _failed(draft, attempt, _evicted_by_queue(draft))
    verdict = judge(view, pods, draft.now)
    if isinstance(verdict, Failure):
        return _failed(draft, attempt, verdict)
    if draft.job.spec.policy.suspend:
        return after_attempt(draft, attempt, Outcome.SUSPENDED)
    if not draft.invalid and _resized(draft, attempt):
        return after_attempt(draft, attempt, Outcome.RESIZED)
    if (late := _too_late(draft, view, pods)) is not None:
        return _fatal(draft, attempt, late)
    if isinstance(verdict, Settling):
        draft.wake_at(verdict.until)
    return _alive(draft, attempt, view, pods)


def _alive(draft: Draft, attempt: Attempt, view: JobView, pods: tuple[PodView, ...]) -> Plan:
    """Nothing ended: say how far it is, and since when nothing moved."""
    policy = draft.job.spec.policy
    draft.status.gpus = _held(draft, attempt, view, pods)
    heard = draft.observed.report
    if heard is not None:
        report.merge(draft.status, attempt, heard.status)
        if heard.silent:
            report.fall_silent(draft.status)
    if not _all_run(view, pods):
        group = draft.observed.groups.get(attempt.number)
        draft.say(explain.starting(draft, view, pods, group))
        if len(pods) < view.shape.nodes and view.started:
            draft.wake_at(max(view.started + PODS_EXIST_IN, draft.now + ASK_AGAIN))
        return draft.plan(delete=draft.sweep(), poll=_target(attempt, pods))
    stalled = _stalled(draft, attempt)
    if stalled is not None and policy.hang.action is not HangAction.WARN:
        hang = Failure(
            class_=FailureClass.HANG,
            message=stalled.message,
            remedy=remedy_for(FailureClass.HANG),
        )
        fatal = policy.hang.action is HangAction.FAIL
        return _fatal(draft, attempt, hang) if fatal else _failed(draft, attempt, hang)
    draft.say(
        Situation(
            Phase.RUNNING,
            "PodsRunning",
            _doing(draft, attempt, stalled),
            scheduled=True,
            running=True,
            stalled=stalled,
        )
    )
    return draft.plan(delete=draft.sweep(), poll=_target(attempt, pods))


def _held(draft: Draft, attempt: Attempt, view: JobView, pods: tuple[PodView, ...]) -> int:
    """GPUs that the attempt holds: a pod without a node holds none, however long it waits.

    A gang gets its nodes one after the other, within moments: only a part of it that has to wait
    for the rest is worth a write of the status.
    """
    placed = sum(pod.scheduled for pod in pods)
    group = draft.observed.groups.get(attempt.number)
    if 0 < placed < view.shape.nodes and explain.unplaced(draft, pods, group) is None:
        return draft.status.gpus or 0
    return attempt.gpus_per_node * placed


def _doing(draft: Draft, attempt: Attempt, stalled: Said | None) -> str | None:
    """What a running job is doing, in a few words."""
    if stalled is not None:
        return f"no progress: {stalled.message}"
    heard = draft.observed.report
    if heard is not None and heard.silent:
        return "running, but rank 0 does not answer"
    progress = draft.status.progress
    # Before its first word a trainer loads torch, which takes longer than anything a pod waits for.
    doing = progress.stage if progress and progress.stage else "the trainer starts"
    current = heard is not None and heard.status.attempt == attempt.number
    # Nobody would see otherwise that a hub, say, does not answer: no attempt has failed yet.
    again = heard.status.started_again if heard is not None and current else None
    return f"{doing}; started again in its pod after: {named(again)}" if again else doing


def _all_run(view: JobView, pods: tuple[PodView, ...]) -> bool:
    """Every rank is there; one that has finished well counts while the others go on."""
    there = [pod for pod in pods if pod.running or (pod.exit and pod.exit.code == 0)]
    return not view.suspended and len(there) >= view.shape.nodes


def _target(attempt: Attempt, pods: tuple[PodView, ...]) -> PollTarget | None:
    pod = rank_zero(pods)
    if pod is None or not pod.running or not pod.ip or pod.deleted:
        return None
    return PollTarget(pod.uid, pod.ip, attempt.number)


def _stalled(draft: Draft, attempt: Attempt) -> Said | None:
    """No progress of any kind for policy.hang.after.

    Judged by when we saw something move, never by a time that a pod wrote: neither a wrong clock
    nor a word of an earlier attempt may end a job that works. A container that never said anything
    is left alone, unless it is our own image, which speaks before anything else.
    """
    after = timedelta(seconds=duration_seconds(draft.job.spec.policy.hang.after))
    heard = draft.observed.report
    current = heard is not None and heard.status.attempt == attempt.number
    speaks = draft.job.spec.compute.image is None or attempt.last_step is not None
    running_since = conditions.since(draft.status, ConditionType.RUNNING) or draft.now
    if heard is not None and current:
        moved = heard.moved
    elif speaks:
        moved = max(running_since, draft.observed.watching_since)
    else:
        return None
    if draft.now >= moved + after:
        text = f"no step, evaluation or checkpoint for {draft.job.spec.policy.hang.after}"
        return Said("NoProgress", text)
    draft.wake_at(moved + after)
    return None


def _too_late(draft: Draft, view: JobView, pods: tuple[PodView, ...]) -> Failure | None:
    """A deadline has passed."""
    deadline = draft.deadline()
    if deadline is not None and draft.now >= deadline:
        return draft.deadline_failure()
    draft.wake_at(deadline)
    startup = draft.job.spec.policy.startup_deadline
    if startup is None or view.suspended or _all_run(view, pods):
        return None
    if conditions.holds(draft.status, ConditionType.RUNNING):
        return None
    limit = admitted(view) + timedelta(seconds=duration_seconds(startup))
    if draft.now < limit:
        draft.wake_at(limit)
        return None
    held_up = draft.status.reason or "the pods did not start"
    return Failure(
        class_=FailureClass.STARTUP,
        message=f"not all pods ran within policy.startupDeadline ({startup}): {held_up}"[:4096],
        remedy=remedy_for(FailureClass.STARTUP),
    )


def _resized(draft: Draft, attempt: Attempt) -> bool:
    wanted = Shape.wanted(draft.job.spec.compute, number=attempt.number)
    return (wanted.nodes, wanted.processes_per_node, wanted.gpus_per_node) != (
        attempt.nodes,
        attempt.processes_per_node,
        attempt.gpus_per_node,
    )


def _last_word_is_due(view: JobView, pods: tuple[PodView, ...], now: datetime) -> datetime | None:
    """Until when to wait for rank 0's end: Jobs and pods are watched apart, and the news that a Job
    is complete may come before the news of its pods, which bring the evaluation.
    """
    pod = rank_zero(pods)
    if pod is None or pod.exit is not None or view.completed is None:
        return None
    until = view.completed + LATE_NEWS
    return until if now < until else None


def _denied(pods: tuple[PodView, ...]) -> bool:
    """All containers exited with 0, but rank 0 says that it failed."""
    word = last_word(rank_zero(pods))
    return word is not None and word.outcome == "Failed"


def _taken_away(draft: Draft, attempt: Attempt) -> Plan:
    """The attempt's Job is gone, and not by us: we write the end of an attempt down first."""
    if draft.job.spec.policy.suspend:
        return after_attempt(draft, attempt, Outcome.SUSPENDED)
    failure = Failure(
        class_=FailureClass.PREEMPTED,
        message=f"the Job of attempt {attempt.number} was deleted",
    )
    return _failed(draft, attempt, failure)


def _was_admitted(draft: Draft, pods: tuple[PodView, ...]) -> bool:
    """Whether a suspended Job has had its turn.

    Jobs and pods are watched apart: the first pods of a Job that the queue has just admitted may be
    seen before the news that it is not suspended.
    """
    if conditions.holds(draft.status, ConditionType.RUNNING):
        return True
    return bool(pods) and draft.status.phase is not Phase.QUEUED


def _evicted_by_queue(draft: Draft) -> Failure:
    return Failure(
        class_=FailureClass.PREEMPTED,
        message=f"queue {draft.job.spec.compute.queue} took the pods' place back",
    )


def _failed(draft: Draft, attempt: Attempt, failure: Failure) -> Plan:
    """The attempt failed; the budget of its class decides about the next one."""
    preempted = failure.class_ is FailureClass.PREEMPTED
    outcome = Outcome.PREEMPTED if preempted else Outcome.FAILED
    counted = dict(draft.status.failures)
    counted[str(failure.class_)] = counted.get(str(failure.class_), 0) + 1
    if not retry.allowed(draft.job.spec.policy.retry, failure.class_, counted):
        return _fatal(draft, attempt, failure)
    return after_attempt(draft, attempt, outcome, failure)


def _fatal(draft: Draft, attempt: Attempt, failure: Failure) -> Plan:
    draft.end(attempt, Outcome.FAILED, failure)
    draft.fail_for(failure)
    return ending.look(draft)
