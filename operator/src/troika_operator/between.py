"""Decisions while no attempt is open: wait, suspend, give up, or start the next one."""

from datetime import datetime, timedelta

from troika_api.contract import FailureClass
from troika_api.v1alpha1.status import Attempt, ConditionType, Failure, Outcome, Phase

from . import conditions, ending, report, retry
from .conditions import Situation
from .draft import Draft
from .plan import Plan, Source
from .resources.attempt import Shape
from .resources.config import model_from
from .resources.objects import attempt_objects

WAIT_FOR_MODEL = timedelta(seconds=60)
"""How often the progress of the awaited job is written into the reason."""
GRACEFUL = frozenset({Outcome.SUSPENDED, Outcome.RESIZED, Outcome.PREEMPTED})
"""Ends in which the pods save before they stop; the next attempt starts from what they save."""


def after_attempt(
    draft: Draft, attempt: Attempt, outcome: Outcome, failure: Failure | None = None
) -> Plan:
    """Close the record and say what follows; the Job goes only after this is written."""
    draft.end(attempt, outcome, failure)
    if outcome is Outcome.SUSPENDED:
        draft.say(Situation(Phase.SUSPENDING, "Suspending", "the pods save and stop"))
    elif failure is None:
        wanted = draft.job.spec.compute.nodes
        text = f"changing from {attempt.nodes} to {wanted} node(s); the pods save and stop"
        draft.say(Situation(Phase.RESTARTING, "Resizing", text))
    else:
        draft.say(_backing_off(draft, _due(draft, attempt)))
    return draft.plan(delete=draft.sweep())


def look(draft: Draft) -> Plan:
    """Decide what comes next."""
    last = draft.newest
    if last is not None and last.outcome in GRACEFUL:
        draft.hear(last)
        report.stop(draft.status)
    if draft.job.spec.policy.suspend:
        return _suspended(draft, last)
    if draft.invalid:
        draft.say(Situation(Phase.INVALID, "InvalidSpec", draft.invalid))
        return draft.plan(delete=draft.sweep())
    deadline = draft.deadline()
    if deadline is not None and draft.now >= deadline:
        draft.fail_for(draft.deadline_failure())
        return ending.look(draft)
    draft.wake_at(deadline)
    base_model = _base_model(draft)
    if isinstance(base_model, Plan):
        return base_model
    if last is not None and (hold := _held_back(draft, last)) is not None:
        return hold
    return _start(draft, last, base_model)


def _suspended(draft: Draft, last: Attempt | None) -> Plan:
    leaving = draft.alive(last.number) if last else []
    if leaving:
        draft.wake_at(*(pod.gone_by for pod in leaving))
        draft.say(Situation(Phase.SUSPENDING, "Suspending", "the pods save and stop"))
        return draft.plan(delete=draft.sweep())
    at = draft.status.checkpoint
    text = (
        f"policy.suspend is true; goes on from step {at.step}" if at else "policy.suspend is true"
    )
    draft.say(Situation(Phase.SUSPENDED, "Suspended", text))
    return draft.plan(delete=draft.sweep())


def _base_model(draft: Draft) -> str | Plan | None:
    """URI of the weights to start from; None for a model from scratch; or a plan to wait."""
    given = model_from(draft.job)
    if given is None:
        return None
    if given.uri:
        return given.uri
    if draft.status.base_model is not None:
        return draft.status.base_model.uri
    source = draft.observed.source
    assert source is not None
    if conditions.holds(source.status, ConditionType.COMPLETE):
        return source.status.model.uri if source.status.model else source.output_uri
    if conditions.holds(source.status, ConditionType.FAILED):
        why = source.status.reason or "no reason given"
        draft.fail("ModelUnavailable", f"{source.kind} {source.name} failed: {why}")
        return ending.look(draft)
    draft.wake_at(draft.now + WAIT_FOR_MODEL)
    draft.say(Situation(Phase.WAITING, "WaitingForModel", _awaited(source)))
    return draft.plan(delete=draft.sweep())


def _awaited(source: Source) -> str:
    who = f"waiting for {source.kind} {source.name}"
    if not source.exists:
        return f"{who}, which does not exist yet"
    progress = source.status.progress
    phase = source.status.phase or Phase.PENDING
    if progress is not None and progress.total_steps:
        return f"{who}, which is {phase} at step {progress.step} of {progress.total_steps}"
    return f"{who}, which is {phase}"


def _held_back(draft: Draft, last: Attempt) -> Plan | None:
    """The next attempt has to wait for the last one's pods, or for its turn."""
    if last.outcome in GRACEFUL and (leaving := draft.alive(last.number)):
        draft.wake_at(*(pod.gone_by for pod in leaving))
        text = f"waiting for {len(leaving)} pod(s) of attempt {last.number} to save and stop"
        lead = draft.lead
        message = f"{lead}; {text}" if lead else text
        draft.say(Situation(Phase.RESTARTING, "PodsStopping", message))
        return draft.plan(delete=draft.sweep())
    due = _due(draft, last)
    if draft.now < due:
        draft.wake_at(due)
        draft.say(_backing_off(draft, due))
        return draft.plan(delete=draft.sweep())
    return None


def _due(draft: Draft, last: Attempt) -> datetime:
    policy = draft.job.spec.policy.retry
    ended = last.ended or draft.now
    return ended + retry.backoff(policy, draft.status.attempts, draft.status.failures)


def _backing_off(draft: Draft, due: datetime) -> Situation:
    last = draft.newest
    assert last is not None
    when = f"at {due:%H:%M:%S} UTC" if due > draft.now else "now"
    text = f"{draft.lead or ''}; attempt {last.number + 1} follows {when}".removeprefix("; ")
    return Situation(Phase.RESTARTING, "AttemptFailed", text)


def _start(draft: Draft, last: Attempt | None, base_model: str | None) -> Plan:
    """Make the next attempt. Its beginning is recorded when its Job is there."""
    divisor = last.micro_batch_divisor if last else 1
    if last and last.failure and last.failure.class_ is FailureClass.OUT_OF_MEMORY:
        # Nothing is left to halve in a micro-batch of one.
        divisor = min(2 * divisor, draft.job.spec.training.global_batch_size)
    shape = Shape.wanted(
        draft.job.spec.compute,
        number=last.number + 1 if last else 0,
        micro_batch_divisor=divisor,
    )
    if (strangers := draft.alive(shape.number)) and draft.observed.refusal is None:
        # Pods of a job that had this name before: they would answer to this one's host names.
        draft.wake_at(*(pod.gone_by for pod in strangers))
        text = f"waiting for {len(strangers)} pod(s) of an earlier job of this name to stop"
        draft.say(Situation(Phase.PENDING, "PodsStopping", text))
        return draft.plan(delete=draft.sweep())
    objects = attempt_objects(draft.job, shape, draft.observed.platform, base_model)
    if draft.observed.refusal is not None:
        draft.say(Situation(Phase.PENDING, "Refused", draft.observed.refusal))
    elif conditions.holds(draft.status, ConditionType.SUSPENDED):
        # Written before the Job is made: the time suspended is counted once, with its end.
        text = f"resuming with attempt {shape.number}"
        draft.say(Situation(Phase.STARTING, "Resuming", text))
    return draft.plan(delete=draft.sweep(), start=objects)
