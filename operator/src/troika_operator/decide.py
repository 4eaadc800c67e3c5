"""What to do about a job: a pure function of the job, what was observed, and the time.

finished?           clean up when its time has come               ending
an attempt is open? ended, suspended, resized, late, alive        running
otherwise           wait, suspend, give up, or start the next     between
"""

from datetime import datetime

from troika_api.v1alpha1.status import ConditionType, JobStatus, Outcome, Phase

from . import between, conditions, ending, running
from .conditions import Situation
from .draft import Draft
from .plan import Observed, Plan
from .resources.labels import Job
from .validation import problems


def decide(job: Job, observed: Observed, now: datetime) -> Plan:
    """The plan for one look at one job."""
    if job.metadata.deletion_timestamp is not None:
        return Plan()  # the garbage collector does the rest
    if finished(job.status):
        draft = Draft(job, observed, now)
        draft.status.observed_generation = job.metadata.generation
        return ending.look(draft)
    draft = Draft(job, observed, now, invalid="; ".join(problems(job))[:4000] or None)
    draft.adopt()
    newest = draft.newest
    if newest is not None and newest.outcome is Outcome.RUNNING:
        return running.look(draft, newest)
    return between.look(draft)


def decide_unreadable(status: JobStatus, *, message: str, generation: int, now: datetime) -> Plan:
    """For a body that is none of the API's: say so, and leave alone what runs."""
    if finished(status):
        return Plan()
    renewed = status.model_copy(deep=True)
    runs = any(attempt.outcome is Outcome.RUNNING for attempt in renewed.attempts)
    phase = (renewed.phase or Phase.INVALID) if runs else Phase.INVALID
    situation = Situation(
        phase,
        "InvalidSpec",
        message,
        scheduled=conditions.holds(status, ConditionType.SCHEDULED),
        running=conditions.holds(status, ConditionType.RUNNING),
        invalid=message,
    )
    conditions.describe(renewed, situation, now=now.replace(microsecond=0), generation=generation)
    return Plan(status=renewed)


def finished(status: JobStatus) -> bool:
    """The job is over; nothing starts again."""
    return conditions.holds(status, ConditionType.COMPLETE) or conditions.holds(
        status, ConditionType.FAILED
    )
