"""Measure the model on held-out data, all ranks together; stop in the middle when asked to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .batch import Examples
from .batches import whole_split
from .distributed import Group
from .tasks.base import Measured, Objective


@dataclass(frozen=True)
class Evaluator:
    """Runs an objective over a split; every rank gets the same answer."""

    objective: Objective
    group: Group
    batch: int
    """Examples in one forward pass."""
    autocast: Callable[[], Any]
    """Context of the arithmetic."""
    going_on: Callable[[], bool]
    """Asked after every round; False on any rank ends the measurement on all."""

    @torch.no_grad()
    def measure(self, examples: Examples, *, limit: int | None = None) -> Measured | None:
        """Loss and predictions over the first `limit` examples, or None where ended early."""
        rank, size = self.group.place.rank, self.group.size
        work = list(whole_split(examples, limit=limit, batch=self.batch))
        sums = torch.zeros(2, dtype=torch.float64)
        found: list[tuple[Any, Any]] = []
        self.objective.eval()
        try:
            for round_ in range(-(-len(work) // size)):
                if (turn := round_ * size + rank) < len(work):
                    batch = examples.batch(work[turn], np.zeros_like(work[turn])).to(
                        self.group.device
                    )
                    with self.autocast():
                        loss, predictions = self.objective.forward(batch)
                    sums += torch.tensor([loss.item(), batch.weight], dtype=torch.float64)
                    found.append((work[turn], predictions.cpu().numpy()))
                if self.group.any(not self.going_on()):
                    return None
        finally:
            self.objective.train()
        total, weight = self.group.sum(sums).tolist()
        parts = [part for of_rank in self.group.gather(found) for part in of_rank]
        order = np.argsort(np.concatenate([indices for indices, _ in parts]))
        return Measured(
            loss=total / max(weight, 1.0),
            weight=int(weight),
            predictions=np.concatenate([values for _, values in parts])[order],
        )
