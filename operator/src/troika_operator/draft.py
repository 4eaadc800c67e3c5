"""A status under construction: what every part of the decision reads and writes."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from troika_api.contract import FailureClass
from troika_api.v1alpha1.base import duration_seconds
from troika_api.v1alpha1.status import (
    MAX_ATTEMPTS_RECORDED,
    Attempt,
    ConditionType,
    Failure,
    JobStatus,
    ModelStatus,
    Outcome,
    Phase,
)

from . import conditions, goodput, report, retry
from .conditions import Situation
from .failures import last_word
from .plan import Observed, Plan, PollTarget, Ref
from .remedies import remedy_for
from .resources.attempt import Shape
from .resources.labels import Job
from .resources.objects import AttemptObjects
from .views import JobView, PodView


@dataclass
class Draft:
    """One decision in the making. Nothing in it reaches outside."""

    job: Job
    observed: Observed
    now: datetime
    invalid: str | None = None
    """What is wrong with the spec."""
    status: JobStatus = field(init=False)
    due: list[datetime] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start from what is recorded; time suspended is over as soon as it is not wanted."""
        self.now = self.now.replace(microsecond=0)
        self.status = self.job.status.model_copy(deep=True)
        suspended_at = conditions.since(self.status, ConditionType.SUSPENDED)
        if suspended_at is not None and not self.job.spec.policy.suspend:
            # Not negative, as it may be where another node's clock wrote the beginning.
            spent = max((self.now - suspended_at).total_seconds(), 0.0)
            self.status.suspended_seconds = (self.status.suspended_seconds or 0) + round(spent)

    @property
    def newest(self) -> Attempt | None:
        """The newest attempt on record."""
        return self.status.attempts[-1] if self.status.attempts else None

    @property
    def lead(self) -> str | None:
        """Why there is an attempt after the first, where that is worth saying."""
        ended = [a for a in self.status.attempts if a.outcome is not Outcome.RUNNING]
        if not ended or ended[-1].outcome is Outcome.SUSPENDED:
            return None
        last = ended[-1]
        if last.failure is None:
            return f"attempt {last.number} ended to change its size"
        return f"attempt {last.number} ended: {last.failure.class_}: {last.failure.message}"[:2000]

    def say(self, situation: Situation) -> None:
        """Describe the job."""
        if self.invalid and situation.invalid is None:
            situation = Situation(
                situation.phase,
                situation.word,
                situation.message,
                scheduled=situation.scheduled,
                running=situation.running,
                stalled=situation.stalled,
                invalid=self.invalid,
            )
        generation = self.job.metadata.generation
        conditions.describe(self.status, situation, now=self.now, generation=generation)

    def wake_at(self, *times: datetime | None) -> None:
        """Look again at these times."""
        self.due.extend(time for time in times if time is not None)

    def plan(
        self,
        *,
        delete: Iterable[Ref] = (),
        start: AttemptObjects | None = None,
        poll: PollTarget | None = None,
    ) -> Plan:
        """The decision."""
        waits = [max((time - self.now).total_seconds(), 0.0) for time in self.due]
        return Plan(
            status=self.status,
            delete=tuple(delete),
            start=start,
            poll=poll,
            requeue_after=min(waits) if waits else None,
        )

    def adopt(self) -> None:
        """Put Jobs that exist and are not on record on record: that is how an attempt begins."""
        known = max((a.number for a in self.status.attempts), default=-1)
        for number in sorted(n for n in self.observed.jobs if n > known):
            view = self.observed.jobs[number]
            previous = self.newest
            if previous and previous.outcome in (Outcome.FAILED, Outcome.PREEMPTED):
                self.status.restarts += 1
            self.status.attempts.append(_recorded(view.shape, view.created))
            self.status.started = self.status.started or view.created
            source = self.observed.source
            if source is not None and source.status.model is not None:
                self.status.base_model = ModelStatus(uri=source.status.model.uri)
        del self.status.attempts[:-MAX_ATTEMPTS_RECORDED]

    def end(self, attempt: Attempt, outcome: Outcome, failure: Failure | None = None) -> None:
        """Close the record of an attempt; `finish` or the next attempt follows."""
        view = self.observed.jobs.get(attempt.number)
        self.hear(attempt)
        attempt.ended = self.now
        attempt.outcome = outcome
        attempt.failure = failure
        held_from = attempt.started if view is None else view.started
        goodput.account(self.status, attempt, held_from)
        report.stop(self.status)
        if failure is not None:
            kind = str(failure.class_)
            self.status.failures[kind] = self.status.failures.get(kind, 0) + 1

    def hear(self, attempt: Attempt) -> None:
        """Take over what the pods' last words say of progress; rank 0 speaks for all."""
        for pod in reversed(self.observed.pods_of(attempt.number)):
            word = last_word(pod)
            if word is not None and word.status is not None:
                report.merge(self.status, attempt, word.status)

    def fail(self, word: str, message: str) -> None:
        """The job is over, without success."""
        self.status.finished = self.now
        report.stop(self.status)
        self.say(Situation(Phase.FAILED, word, message[:4096]))

    def fail_for(self, failure: Failure) -> None:
        """The same for a failed attempt."""
        spent = self.status.failures.get(str(failure.class_), 0)
        limit = retry.budget(self.job.spec.policy.retry, failure.class_)
        tail = f" ({spent} failures of this class, {limit} retries allowed)" if limit else ""
        remedy = f"; to mend it: {failure.remedy}" if failure.remedy else ""
        self.fail(str(failure.class_), f"{failure.message}{tail}{remedy}")

    def deadline(self) -> datetime | None:
        """When the job's time is up."""
        limit = self.job.spec.policy.deadline
        if limit is None or self.status.started is None:
            return None
        allowed = duration_seconds(limit) + (self.status.suspended_seconds or 0)
        return self.status.started + timedelta(seconds=allowed)

    def deadline_failure(self) -> Failure:
        """What a job ends of when its time is up."""
        return Failure(
            class_=FailureClass.DEADLINE,
            message=f"not finished within policy.deadline ({self.job.spec.policy.deadline})",
            remedy=remedy_for(FailureClass.DEADLINE),
        )

    def alive(self, number: int) -> list[PodView]:
        """Pods of an attempt without a Job that may still be saving. A dead node's pod is not
        waited for: its time to stop has passed, or it was never given one.
        """
        return [
            pod
            for pod in self.observed.pods
            if pod.attempt == number
            and not pod.finished
            and (pod.gone_by is None or pod.gone_by > self.now)
            and not (pod.disrupted and pod.running and not pod.ready)
        ]

    def sweep(self) -> list[Ref]:
        """What ended attempts left behind. Of a failed one whose containers exited by themselves
        the Job stays until the attempt after the next one, because logs go with the pods.
        """
        kept = {a.number for a in self.status.attempts if self._keeps_job(a)}
        stale = [v for n, v in sorted(self.observed.jobs.items()) if n not in kept]
        newest = self.newest.number if self.newest else -1
        groups = [
            g for n, g in sorted(self.observed.groups.items()) if n not in kept and n <= newest
        ]
        return [
            *(Ref("Job", view.name, view.uid) for view in stale if not view.deleting),
            *(Ref("PodGroup", view.name, view.uid) for view in groups if not view.deleting),
        ]

    def _keeps_job(self, attempt: Attempt) -> bool:
        newest = self.newest
        assert newest is not None
        if attempt.outcome in (Outcome.RUNNING, Outcome.SUCCEEDED):
            return True
        # The Job controller ends the other pods of one that failed, of one that exited with 0 not.
        exited = attempt.failure is not None and bool(attempt.failure.exit_code)
        return attempt.outcome is Outcome.FAILED and exited and attempt.number >= newest.number - 1


def _recorded(shape: Shape, started: datetime) -> Attempt:
    return Attempt(
        number=shape.number,
        nodes=shape.nodes,
        processes_per_node=shape.processes_per_node,
        gpus_per_node=shape.gpus_per_node,
        micro_batch_divisor=shape.micro_batch_divisor,
        started=started,
    )


def rank_zero(pods: Iterable[PodView]) -> PodView | None:
    """The pod of rank 0."""
    return next((pod for pod in pods if pod.index == 0), None)


def admitted(view: JobView) -> datetime:
    """Since when the attempt may run."""
    return view.started or view.created
