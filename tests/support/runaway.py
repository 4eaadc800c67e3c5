"""Numbers that run away for real, in the pass of one rank.

In the child of a nursery: ``NURSERY_SETUP=support.runaway:of_environment``.
"""

import os

import torch

from troika_trainer.batch import Batch
from troika_trainer.tasks.base import Objective


def run_away(*, in_gradient: bool, after: int) -> None:
    """Let the loss of every pass in training be infinite, or let only its gradient be no number.

    Args:
        in_gradient: The square root of zero is zero, and its slope is not finite.
        after: Passes that go well before.
    """
    forward, passes = Objective.forward, 0

    def watched(self: Objective, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal passes
        loss, predictions = forward(self, batch)
        if loss.requires_grad:
            passes += 1
            if passes > after:
                loss = loss + (loss - loss).sqrt() if in_gradient else loss * float("inf")
        return loss, predictions

    Objective.forward = watched  # type: ignore[method-assign]


def of_environment() -> None:
    """On rank RUNAWAY_RANK, in RUNAWAY_IN "loss" or "gradient", after RUNAWAY_AFTER passes."""
    if os.environ["RANK"] == os.environ["RUNAWAY_RANK"]:
        run_away(
            in_gradient=os.environ["RUNAWAY_IN"] == "gradient",
            after=int(os.environ["RUNAWAY_AFTER"]),
        )
