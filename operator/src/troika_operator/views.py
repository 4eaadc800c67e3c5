"""The few facts about child objects that decisions are made from.

Watch events carry whole objects: a pod of ours is 8 kB of JSON, of which 0.5 kB matters. Views are
made when an event arrives and the rest is dropped, so that thousands of pods fit in the operator.
"""

from dataclasses import dataclass
from datetime import datetime

from .resources.attempt import Shape


@dataclass(frozen=True, slots=True)
class Exit:
    """How the trainer's container ended."""

    code: int
    reason: str
    message: str
    time: datetime


@dataclass(frozen=True, slots=True)
class Said:
    """A reason in a word and a message, as Kubernetes gives them; since when, where it says so."""

    reason: str
    message: str = ""
    time: datetime | None = None


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of an attempt."""

    name: str
    uid: str
    version: int
    attempt: int
    index: int
    created: datetime
    job_uid: str = ""
    phase: str = "Pending"
    node: str | None = None
    ip: str | None = None
    scheduled: bool = False
    running: bool = False
    """The trainer's container runs."""
    ready: bool = False
    unschedulable: Said | None = None
    waiting: Said | None = None
    disrupted: Said | None = None
    ended: Said | None = None
    """Reason and message of the pod itself, such as Evicted."""
    exit: Exit | None = None
    deleted: datetime | None = None
    """When somebody asked for its deletion."""
    gone_by: datetime | None = None
    """When its node has killed it at the latest, if the node lives."""

    @property
    def finished(self) -> bool:
        """No container of it runs or will run."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class JobView:
    """The Job of an attempt."""

    name: str
    uid: str
    version: int
    owner_uid: str
    shape: Shape
    created: datetime
    run_hash: str = ""
    started: datetime | None = None
    """When it was admitted: a suspended Job has not started."""
    suspended: bool = False
    complete: bool = False
    completed: datetime | None = None
    failed: Said | None = None
    """FailureTarget or Failed: the Job controller has given the attempt up."""
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class GroupView:
    """The PodGroup of an attempt."""

    name: str
    uid: str
    version: int
    owner_uid: str
    attempt: int
    unschedulable: Said | None = None
    deleting: bool = False
