"""What a decision is made from, and what it says to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from troika_api.contract import TrainerStatus
from troika_api.v1alpha1.status import JobStatus

from .resources.attempt import Platform
from .resources.objects import AttemptObjects
from .views import GroupView, JobView, PodView


@dataclass(frozen=True, slots=True)
class Source:
    """The job whose model is the start of this one, as it stands."""

    kind: str
    name: str
    exists: bool = False
    status: JobStatus = field(default_factory=JobStatus)
    output_uri: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What rank 0 last said of itself."""

    status: TrainerStatus
    moved: datetime
    """When we last saw its progress change. By our clock: the pod's may be wrong."""
    silent: bool = False
    """It does not answer any more."""


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a decision may depend on, besides the job itself and the time."""

    platform: Platform
    watching_since: datetime
    """When this operator process began: it cannot have seen anything move before."""
    jobs: Mapping[int, JobView] = field(default_factory=dict)
    """Jobs of the attempts, by number."""
    groups: Mapping[int, GroupView] = field(default_factory=dict)
    pods: tuple[PodView, ...] = ()
    source: Source | None = None
    report: Report | None = None
    refusal: str | None = None
    """Why the API server did not accept the objects of the next attempt."""
    complaint: str | None = None
    """Why the Job controller could not make the pods of the present one."""

    def pods_of(self, number: int) -> tuple[PodView, ...]:
        """Pods of an attempt, by index."""
        view = self.jobs.get(number)
        mine = (
            pod
            for pod in self.pods
            if pod.attempt == number and (view is None or pod.job_uid == view.uid)
        )
        return tuple(sorted(mine, key=lambda pod: (pod.index, pod.created)))


@dataclass(slots=True)
class Memory:
    """What is remembered of a job between looks; losing it costs nothing but a write or a wait."""

    refusal: str | None = None
    complaint: str | None = None
    failures: int = 0
    """Looks in a row that ended in an error."""
    patched_at: float = float("-inf")
    """When the status was last written."""


@dataclass(frozen=True, slots=True)
class Ref:
    """An object to delete; the uid, where known, makes sure that it is that one."""

    kind: str
    name: str
    uid: str | None = None


@dataclass(frozen=True, slots=True)
class PollTarget:
    """The trainer to ask for its status."""

    uid: str
    """The pod."""
    ip: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order: write the status, delete, create. Then look again.

    An attempt's end is in the status before anything of it is deleted, or the cause would be lost;
    its beginning is written after its Job exists, because the Job is the record of it.
    """

    status: JobStatus | None = None
    """None: leave it as it is."""
    delete: tuple[Ref, ...] = ()
    start: AttemptObjects | None = None
    poll: PollTarget | None = None
    requeue_after: float | None = None
    """Seconds until something is due that no event will tell of."""
