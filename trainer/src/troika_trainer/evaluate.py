"""Measure the model on held-out data, all ranks together; stop in the middle when asked to."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .batch import Examples
from .batches import whole_split
from .distributed import Group
from .tasks.base import Measured, Objective


@torch.no_grad()
def measure(
    objective: Objective,
    examples: Examples,
    *,
    group: Group,
    batch: int,
    limit: int | None,
    autocast: Callable[[], Any],
    going_on: Callable[[], bool],
) -> Measured | None:
    """Loss and predictions over a split; the same on every rank.

    Args:
        objective: Model and loss.
        examples: The split.
        group: The ranks, who share the work batch by batch.
        batch: Examples in one forward pass.
        limit: Most examples to look at.
        autocast: Context of the arithmetic.
        going_on: Asked after every round; False on any rank ends the measurement on all.

    Returns:
        None where it was ended early.
    """
    objective.eval()
    rank, size = group.place.rank, group.size
    work = list(whole_split(examples, limit=limit, batch=batch))
    sums = torch.zeros(2, dtype=torch.float64)
    found: list[tuple[Any, Any]] = []
    try:
        for round_ in range(-(-len(work) // size)):
            if (turn := round_ * size + rank) < len(work):
                piece = examples.batch(work[turn], epoch=0).to(group.device)
                with autocast():
                    loss, predictions = objective.forward(piece)
                sums += torch.tensor([loss.item(), piece.weight], dtype=torch.float64)
                found.append((work[turn], predictions.cpu().numpy()))
            if group.any(not going_on()):
                return None
    finally:
        objective.train()
    group.sum(sums)
    parts = [part for rank_parts in group.gather(found) for part in rank_parts]
    indices = np.concatenate([part[0] for part in parts])
    predictions = np.concatenate([part[1] for part in parts])[np.argsort(indices)]
    total, weight = sums.tolist()
    return Measured(loss=total / max(weight, 1.0), weight=int(weight), predictions=predictions)
