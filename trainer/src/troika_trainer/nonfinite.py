"""Say where the numbers ran away: which step, which rank, which batch, and what was fine before."""

import contextlib
import math
from collections.abc import Callable, Iterator
from hashlib import blake2b

import torch
from torch import nn

from .batch import Batch
from .curve import Point
from .distributed import Group
from .errors import NonFiniteError
from .microbatch import Arithmetic
from .strategy import Strategy
from .telemetry import StepReport

REMEDY = "lower training.optimizer.learningRate, lengthen the warm-up, or use precision FP32"
DATA_REMEDY = "look at that batch; else " + REMEDY


def fingerprint(batches: list[Batch]) -> str:
    """A name for the content of micro-batches: the same data on the same rank has the same."""
    digest = blake2b(digest_size=8)
    for batch in batches:
        for name, value in sorted(batch.inputs.items()):
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def explain(  # noqa: PLR0913
    group: Group,
    batches: list[Batch],
    *,
    step: int,
    own_loss: float,
    own_gradient: Callable[[], bool],
    loss: float,
    norm: float,
    last: StepReport | Point | None,
) -> NonFiniteError:
    """What to raise. All ranks call this together, before any weight has changed.

    Args:
        group: The ranks.
        batches: Micro-batches of this rank.
        step: The step that was not made.
        own_loss: Sum of the losses of this rank.
        own_gradient: Whether this rank's own gradient is finite; asked on all ranks together, and
            only where the losses say nothing.
        loss: Mean loss over all ranks.
        norm: Gradient norm.
        last: The step before it; where this attempt has made none, the last that is remembered.
    """
    names, what = group.gather(fingerprint(batches)), "loss"
    found = group.gather(math.isfinite(own_loss))
    if all(found):
        what, found = "gradient of a finite loss", group.gather(own_gradient())
    bad = [f"rank {rank} (batch {names[rank]})" for rank, fine in enumerate(found) if not fine]
    if bad:
        where = f"the {what} ran away on {', '.join(bad[:8])}"
    else:
        where = (
            "the losses of all ranks are finite, their gradient is not "
            f"(batches {', '.join(names[:8])})"
        )
    return NonFiniteError(
        f"step {step}: loss {loss}, gradient norm {norm}; {where}; {_before(last)}. "
        "Nothing was applied",
        DATA_REMEDY if bad else REMEDY,
    )


def in_validation(step: int, loss: float, last: StepReport | Point | None) -> NonFiniteError:
    """What to raise where the loss of the validation split is no number.

    Args:
        step: The step whose weights were measured.
        loss: Mean over the split.
        last: The step that led there, where this attempt has made it.
    """
    return NonFiniteError(
        f"step {step}: the loss on the validation split is {loss}; {_before(last)}",
        "look at the rows of data.validation; else " + REMEDY,
    )


def _before(last: StepReport | Point | None) -> str:
    """What was fine: numbers of the step before, or of an earlier attempt's points."""
    if last is None:
        return "this attempt made no step before it"
    numbers = (
        f"loss {last.loss:.5g}, gradient norm {last.gradient_norm:.5g}, "
        f"learning rate {last.learning_rate:.3g}"
    )
    if isinstance(last, Point):
        return (
            "this attempt made no step before it; an earlier one's curve ends at step "
            f"{last.step}: {numbers}"
        )
    return f"step {last.step} was the last finite one: {numbers}"


def own_gradient_is_finite(
    strategy: Strategy, batches: list[Batch], arithmetic: Arithmetic
) -> bool:
    """Make the passes of a step once more, to see this rank's gradients before they are shared.

    A step keeps none of them, for they are summed over the ranks in place: so it costs nothing
    while all goes well. All ranks call this together, with dropout seeded as for the step.
    """
    strategy.clear()
    with _watched(strategy.objective) as norms:
        for batch in batches:
            with strategy.exchanging(gradients=False):
                with arithmetic():
                    loss, _ = strategy.objective(batch.to(strategy.group.device))
                loss.backward()
    return all(math.isfinite(norm.item()) for norm in norms)


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """In here: the norms of the gradients as a backward pass makes them, each of shape []."""
    norms: list[torch.Tensor] = []
    watched: set[int] = set()
    hooks = []

    def note(gradient: torch.Tensor) -> None:
        norms.append(torch.linalg.vector_norm(gradient.detach()))

    def watch(module: nn.Module, _args: object = None) -> None:
        for weight in module.parameters(recurse=False):
            if weight.requires_grad and id(weight) not in watched:
                watched.add(id(weight))
                hooks.append(weight.register_hook(note))  # type: ignore[no-untyped-call]

    for module in model.modules():
        watch(module)
        # Sharded weights are whole, and others, from a forward pass to the end of its backward one.
        hooks.append(module.register_forward_pre_hook(watch))
    try:
        yield norms
    finally:
        for hook in hooks:
            hook.remove()
