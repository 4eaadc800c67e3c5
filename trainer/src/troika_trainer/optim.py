"""AdamW with its parameter groups, and the learning rate as a function of the step."""

import math

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from troika_api.v1alpha1.method import MethodType
from troika_api.v1alpha1.run import PretrainRun
from troika_api.v1alpha1.tasks import TASKS
from troika_api.v1alpha1.training import Optimizer, ScheduleType

from .runfile import Run

PRETRAIN_LEARNING_RATE = 5e-4
FINETUNE_LEARNING_RATE = {
    MethodType.FULL: 5e-5,
    MethodType.LORA: 2e-4,
    MethodType.QLORA: 2e-4,
    MethodType.FROZEN: 1e-3,
}


def build_optimizer(model: nn.Module, spec: Optimizer) -> torch.optim.AdamW:
    """Fused AdamW over what can be trained: matrices decay, biases and norms do not."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in trained if w.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [w for w in trained if w.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,  # set for every step by `learning_rate`
        betas=(spec.betas[0], spec.betas[1]),
        eps=spec.epsilon,
        fused=True,
    )


def learning_rate(step: int, *, total: int, run: Run) -> float:
    """The rate of step 1, 2, ..., `total`: a line up, then the shape that the schedule names."""
    schedule, peak = run.training.schedule, run.training.optimizer.learning_rate
    if peak is None:
        peak = default_learning_rate(run)
    warmup = math.ceil(schedule.warmup_ratio * total)
    if step <= warmup:
        return peak * step / warmup
    done = (step - warmup) / (total - warmup + 1)  # + 1: the last step still learns
    match schedule.type:
        case ScheduleType.CONSTANT:
            return peak
        case ScheduleType.LINEAR:
            left = 1.0 - done
        case ScheduleType.COSINE:
            left = 0.5 * (1.0 + math.cos(math.pi * done))
    return peak * (schedule.final_ratio + (1.0 - schedule.final_ratio) * left)


def default_learning_rate(run: Run) -> float:
    """The peak where the run names none."""
    if isinstance(run, PretrainRun):
        return PRETRAIN_LEARNING_RATE
    return FINETUNE_LEARNING_RATE[run.method.type] * TASKS[run.task].learning_rate_factor


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use this rate in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def gradients(model: nn.Module) -> list[torch.Tensor]:
    """The gradients that the last backward pass left."""
    return [weight.grad for weight in model.parameters() if weight.grad is not None]


def gradient_norm(grads: list[torch.Tensor]) -> torch.Tensor:
    """Global L2 norm, shape [], still on the device; of sharded gradients on all ranks together."""
    norm = torch.nn.utils.get_total_norm(grads)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def scale_and_clip(grads: list[torch.Tensor], *, scale: float, norm: float, clip: float) -> None:
    """Turn the gradient of a sum into that of a mean, and clip it, in one pass and in place.

    Args:
        grads: Gradients of the summed loss.
        scale: What to multiply them by.
        norm: Their global L2 norm after scaling.
        clip: Largest norm to keep; 0 for no limit.
    """
    factor = scale * min(1.0, clip / (norm + 1e-6)) if clip else scale
    torch._foreach_mul_(grads, factor)
