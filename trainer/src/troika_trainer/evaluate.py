"""Measure the model on held-out data, all ranks together; stop in the middle when asked to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .batch import IGNORED, Examples, Integers
from .batches import whole_split
from .distributed import Group
from .errors import is_out_of_memory
from .microbatch import Kept
from .tasks.base import Measured, Numbers, Objective

Seen = tuple[Integers, float, int, Numbers]
"""Examples, the sum of their losses, the number of predictions, and what was predicted."""


@dataclass(frozen=True)
class Evaluator:
    """Runs an objective over a split; every rank gets the same answer."""

    objective: Objective
    group: Group
    micro: int
    """Sequences in a forward pass, of the longest there are in training."""
    longest: int
    """Tokens of one of those."""
    autocast: Callable[[], Any]
    """Context of the arithmetic."""
    going_on: Callable[[], bool]
    """Asked after every round; False on any rank ends the measurement on all."""
    together: Kept | None = None
    """Set where the ranks hold parts of one model. One that has no work left runs for the others,
    and one whose memory runs out notes a smaller size here."""

    @torch.no_grad()
    def measure(self, examples: Examples, *, limit: int | None = None) -> Measured | None:
        """Loss and predictions over the first `limit` examples, or None where ended early."""
        rank, size = self.group.place.rank, self.group.size
        work = list(whole_split(examples, limit=limit, tokens=self.micro * self.longest))
        sums = torch.zeros(2, dtype=torch.float64)
        found: list[tuple[Any, Any]] = []
        self.objective.eval()
        try:
            for round_ in range(-(-len(work) // size)):
                turn = round_ * size + rank
                if turn < len(work):
                    for indices, loss, weight, predictions in self._seen(examples, work[turn]):
                        sums += torch.tensor([loss, weight], dtype=torch.float64)
                        found.append((indices, predictions))
                elif self.together:
                    self._seen(examples, work[-1])
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
            predictions=_stacked([values for _, values in parts])[order],
        )

    def _seen(self, examples: Examples, indices: Integers) -> list[Seen]:
        """These examples as the model sees them: at once, or in halves where memory runs out."""
        batch = examples.batch(indices, np.zeros_like(indices))
        # The module as such gathers its parts, and would be compiled once more where it is whole.
        run = self.objective if self.together else self.objective.forward
        try:
            with self.autocast():
                loss, predictions = run(batch.to(self.group.device))
            return [(indices, loss.item(), batch.weight, predictions.cpu().numpy())]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.together:
                raise self.together.shrunk(self.micro, "in evaluation") from error
            if len(indices) == 1:
                raise
        return [part for half in np.array_split(indices, 2) for part in self._seen(examples, half)]


def _stacked(parts: list[Numbers]) -> Numbers:
    """The predictions of all batches, the narrow ones filled up to the widest."""
    if parts[0].ndim < 2:
        return np.concatenate(parts)
    width = max(part.shape[1] for part in parts)
    rest = [(0, 0)] * (parts[0].ndim - 2)
    return np.concatenate(
        [
            np.pad(part, [(0, 0), (0, width - part.shape[1]), *rest], constant_values=IGNORED)
            for part in parts
        ]
    )
