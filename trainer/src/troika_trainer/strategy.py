"""How the ranks share a step. Here: what the loop asks, and the answers of one rank alone.

`exchange.py` gives every rank a copy of the model, `sharding.py` a part of it.
"""

import contextlib
from collections.abc import Iterator
from typing import ClassVar

from .averages import RunningAverages
from .distributed import Group
from .tasks.base import Objective


class Strategy:
    """One rank alone, and what the others have in common with it."""

    survives_out_of_memory: ClassVar[bool] = True
    """Whether a step in which one rank ran out of memory ends in order on all of them."""
    runs_together: ClassVar[bool] = False
    """Whether a forward pass on one rank needs one on every other."""

    def __init__(self, objective: Objective, group: Group) -> None:
        self.objective, self.group = objective, group
        self.averages = RunningAverages(objective)

    @contextlib.contextmanager
    def exchanging(self, *, gradients: bool) -> Iterator[None]:  # noqa: ARG002 - there is nobody
        """Around forward and backward: with `gradients` they are averaged over the ranks."""
        yield

    def settle(self) -> None:
        """End the exchange of a step, whether its backward pass came to its end or not."""

    def clear(self) -> None:
        """Forget the gradients."""
        self.objective.zero_grad(set_to_none=True)

    def collect(self) -> None:
        """Bring the whole model to the first rank, for good. All ranks call this together."""
