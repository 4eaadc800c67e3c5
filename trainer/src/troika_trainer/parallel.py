"""Put the model on the ranks as the run says."""

import torch

from troika_api.v1alpha1.training import Sharding, Training

from .batch import Batch
from .distributed import Group
from .exchange import Replicated
from .sharding import Sharded
from .strategy import Strategy
from .tasks.base import Objective


def spread(objective: Objective, group: Group, training: Training, *, trial: Batch) -> Strategy:
    """Bring the model to the devices of the ranks.

    Args:
        objective: On the CPU, the same on every rank.
        group: The ranks.
        training: How they share the work.
        trial: One or two examples, the same on every rank.
    """
    objective.train()
    sharded = group.size > 1 and training.sharding is not Sharding.NONE
    if not sharded:
        objective.to(group.device)
    if sharded:
        return Sharded(objective, group, training)
    if group.size > 1:
        return Replicated(objective, group, trial=trial)
    return Strategy(objective, group)


def device_memory(device: torch.device) -> int | None:
    """Bytes that this process can use on the device; None on the CPU, which others share."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device))
