"""Where this process stands: its rank, its node, its attempt. Read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from troika_api import contract
from troika_api.term import Term

ENV_ROUND = "TROIKA_ROUND"
"""From launcher to ranks: the name of this start of the processes, the same on all nodes."""

ENV_STARTED_AGAIN = "TROIKA_STARTED_AGAIN"
"""From launcher to ranks: why they are started again."""


@dataclass(frozen=True)
class Place:
    """One process of the gang. The defaults are those of a run with a single process."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    attempt: int = 0
    """Number that the operator gave."""
    given_term: Term | None = None
    """The fencing token of every checkpoint, where an operator gave one."""
    restart: int = 0
    """How often torchrun has restarted the processes of this attempt in place."""
    started_again: str | None = None
    """Why, the last time."""
    micro_batch_divisor: int = 1
    """By how much the operator has shrunk the micro-batch since memory ran out."""
    error_file: Path | None = None
    """Where torchrun looks for the reason when this process fails."""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Place":
        """Read the variables that torchrun and the operator set."""
        error_file = environ.get("TORCHELASTIC_ERROR_FILE")
        term = environ.get(contract.ENV_TERM)
        return cls(
            rank=int(environ.get("RANK", "0")),
            world_size=int(environ.get("WORLD_SIZE", "1")),
            local_rank=int(environ.get("LOCAL_RANK", "0")),
            local_world_size=int(environ.get("LOCAL_WORLD_SIZE", "1")),
            attempt=int(environ.get(contract.ENV_ATTEMPT) or "0"),
            given_term=Term.parse(term) if term else None,
            restart=int(environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
            started_again=environ.get(ENV_STARTED_AGAIN),
            micro_batch_divisor=int(environ.get(contract.ENV_MICRO_BATCH_DIVISOR) or "1"),
            error_file=Path(error_file) if error_file else None,
        )

    @property
    def term(self) -> Term:
        """What orders the owners of a directory of checkpoints. Without an operator it is made of
        the attempt alone, and is below that of every job.
        """
        return self.given_term or Term.by_hand(self.attempt)

    @property
    def is_first(self) -> bool:
        """True on the one process that speaks and writes for all."""
        return self.rank == 0

    @property
    def word_file(self) -> Path | None:
        """Where the launcher looks for what this process has to say at its end."""
        return self.error_file.with_name("word.json") if self.error_file else None


CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where the CPU limit of this container stands (cgroup v2)."""


def cores(quota: Path = CPU_QUOTA) -> int:
    """Cores that this container may use: its CPU limit in whole ones, not what the node has."""
    limit = _limit(quota)
    available = len(os.sched_getaffinity(0))
    return max(1, min(available, limit) if limit is not None else available)


def threads_for(place: Place, *, sharing: int, quota: Path = CPU_QUOTA) -> int:
    """Threads for one rank: more than its share of the cores only wait for each other.

    Args:
        place: The rank.
        sharing: Ranks on this machine, those of other pods too.
        quota: Where the limit of this container stands (cgroup v2).
    """
    share = len(os.sched_getaffinity(0)) // sharing
    limit = _limit(quota)
    if limit is not None:
        share = min(share, limit // place.local_world_size)
    return max(1, share)


def _limit(quota: Path) -> int | None:
    """Whole cores of the limit; None where there is none."""
    try:
        limit, period = quota.read_text().split()
        return int(limit) // int(period)
    except (OSError, ValueError):  # no cgroup v2, or the limit is "max"
        return None
