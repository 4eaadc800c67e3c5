"""How a job lives: suspended or not, for how long, and what a failure costs."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from .base import CamelModel, Duration


class HangAction(StrEnum):
    """What to do with a job that makes no step."""

    RESTART = "Restart"
    FAIL = "Fail"
    WARN = "Warn"


Budget = Annotated[int, Field(ge=0, le=1000)]


class Retry(CamelModel):
    """New attempts allowed per class of failure. Preempted pods and lost nodes cost nothing;
    a bad configuration, bad data and a non-finite loss are never tried again.
    """

    crash: Budget = 3
    """The trainer died of an error or a signal."""
    communication: Budget = 3
    """A collective or the rendezvous timed out."""
    out_of_memory: Budget = 3
    """Memory ran out; each new attempt halves the micro-batch and keeps the global batch."""
    storage: Budget = 3
    """Checkpoint or output storage could not be written."""
    hang: Budget = 2
    """No step within policy.hang.after."""
    backoff: Duration = "10s"
    """Wait before the first new attempt; it doubles each time, to ten minutes at most."""


class Hang(CamelModel):
    """When a running job counts as stuck."""

    after: Duration = "30m"
    """Time without progress of any kind (step, evaluation, checkpoint)."""
    action: HangAction = HangAction.RESTART
    """What happens then. The condition Stalled is set in any case."""


class Policy(CamelModel):
    """Everything here may be changed while the job runs."""

    suspend: bool = False
    """Stop after a checkpoint and free the pods; false goes on from that step."""
    deadline: Duration | None = None
    """Longest time from start to end, suspended time not counted; then the job fails."""
    startup_deadline: Duration | None = None
    """Longest time from an attempt's creation until all its pods run; then the job fails."""
    retry: Retry = Retry()
    """New attempts per class of failure."""
    hang: Hang = Hang()
    """When a running job counts as stuck."""
    ttl_after_finished: Duration | None = None
    """Time after which a finished job's children are removed; the resource and its status stay."""
