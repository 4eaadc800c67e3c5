"""One kind of work, as it is handed to the processes of both sides; nothing here imports torch."""

from dataclasses import dataclass, field, replace
from typing import Any

Run = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """One kind of work."""

    name: str
    run: Run
    samples: int
    """In a step; the product's and Trainer's batch size."""
    grouped: bool = field(default=False)
    """Whether Trainer is to group samples by length."""

    def but(self, **changes: Any) -> "Work":
        """The same with changes to the run."""
        from support.trainer_runs import merged

        return replace(self, run=merged(self.run, changes))
