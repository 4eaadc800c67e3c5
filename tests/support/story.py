"""A job's life without a cluster: decide, write the status down, make and remove Jobs, go on."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from troika_api.contract import LastWord, TrainerStatus
from troika_api.v1alpha1.status import Attempt, Condition, ConditionType, JobStatus, Phase
from troika_operator import conditions
from troika_operator.decide import decide
from troika_operator.parsing import view_job
from troika_operator.plan import Observed, Plan
from troika_operator.resources.labels import Job
from troika_operator.views import JobView, PodView

from .views import PLATFORM, START, at, job_view, pod_view, pretrain


@dataclass
class Story:
    """Plays the API server and the Job controller, as far as a decision can see them."""

    job: Job
    observed: Observed = field(
        default_factory=lambda: Observed(platform=PLATFORM, watching_since=START)
    )
    now: datetime = START
    plans: list[Plan] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    patches: int = 0

    @property
    def status(self) -> JobStatus:
        return self.job.status

    def phase(self) -> Phase | None:
        return self.status.phase

    @property
    def newest(self) -> Attempt:
        return self.status.attempts[-1]

    def condition(self, kind: ConditionType) -> Condition:
        found = conditions.condition(self.status, kind)
        assert found is not None
        return found

    def look(self, seconds: float | None = None) -> Plan:
        """Look as often as there is something to do; at most five times, as looks must converge."""
        if seconds is not None:
            self.now = at(seconds)
        for _ in range(5):
            if not self._once():
                return self.plans[-1]
        raise AssertionError(f"does not come to rest: {self.plans[-1]}")

    def _once(self) -> bool:
        plan = decide(self.job, self.observed, self.now)
        self.plans.append(plan)
        changed = False
        if plan.status is not None and plan.status.wire() != self.job.status.wire():
            self.job.status = JobStatus.model_validate(plan.status.wire())
            self.patches += 1
            changed = True
        for ref in plan.delete:
            self.deleted.append(f"{ref.kind}/{ref.name}")
            jobs = {n: v for n, v in self.observed.jobs.items() if v.uid != ref.uid}
            groups = {n: v for n, v in self.observed.groups.items() if v.uid != ref.uid}
            self.observed = replace(self.observed, jobs=jobs, groups=groups)
            changed = True
        if plan.start is not None:
            self.created.append(plan.start.job)
            self.see_job(self._made(plan.start.job))
            changed = True
        return changed

    def _made(self, body: dict[str, Any]) -> JobView:
        stamp = f"{self.now:%Y-%m-%dT%H:%M:%SZ}"
        number = int(body["metadata"]["labels"]["troika.dev/attempt"])
        server = {"uid": f"job-{number}", "creationTimestamp": stamp, "resourceVersion": "1"}
        status = {} if body["spec"].get("suspend") else {"startTime": stamp}
        return view_job({**body, "metadata": {**body["metadata"], **server}, "status": status})

    def see_job(self, view: JobView | None = None, number: int = 0, **facts: Any) -> None:
        view = view or replace(self.observed.jobs[number], **facts)
        jobs = {**self.observed.jobs, view.shape.number: view}
        self.observed = replace(self.observed, jobs=jobs)

    def see_pods(self, *pods: PodView) -> None:
        self.observed = replace(self.observed, pods=pods)

    def see(self, **facts: Any) -> None:
        self.observed = replace(self.observed, **facts)

    def run(self, number: int = 0, nodes: int = 2, seconds: float = 5) -> Plan:
        """All pods of the attempt come up."""
        self.see_pods(*(pod_view(i, number, created=self.now) for i in range(nodes)))
        return self.look(seconds)


__all__ = ["Story", "job_view"]


def training(step: int, **facts: Any) -> TrainerStatus:
    """What rank 0 says at a step."""
    return TrainerStatus(
        **{"stage": "Training", "step": step, "total_steps": 100, "first_step": 1, **facts}
    )


def running(**changes: Any) -> Story:
    """A job whose first attempt runs."""
    story = Story(pretrain(**changes))
    story.look(0)
    story.run()
    return story


def succeed_word(**facts: Any) -> LastWord:
    """What rank 0 says last."""
    return LastWord(
        outcome="Succeeded",
        status=training(100, stage="Done", loss=1.23456, tokens_per_second=999.6),
        model_path="/mnt/troika/models/bert-prose",
        **facts,
    )
