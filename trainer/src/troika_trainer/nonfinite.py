"""Say where the numbers ran away: which step, which rank, which batch, and what was fine before."""

import math
from hashlib import blake2b

from .batch import Batch
from .distributed import Group
from .errors import NonFiniteError
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
    loss: float,
    norm: float,
    last: StepReport | None,
) -> NonFiniteError:
    """What to raise. All ranks call this together, before any weight has changed.

    Args:
        group: The ranks.
        batches: Micro-batches of this rank.
        step: The step that was not made.
        own_loss: Sum of the losses of this rank.
        loss: Mean loss over all ranks.
        norm: Gradient norm.
        last: The step before it, where this attempt has made it.
    """
    found = group.gather((math.isfinite(own_loss), fingerprint(batches)))
    bad = [f"rank {rank} (batch {name})" for rank, (fine, name) in enumerate(found) if not fine]
    if bad:
        where = f"the loss ran away on {', '.join(bad[:8])}"
    else:
        names = ", ".join(name for _, name in found[:8])
        where = f"the losses of all ranks are finite, their gradient is not (batches {names})"
    before = "this attempt made no step before it"
    if last is not None:
        before = (
            f"step {last.step} was the last finite one: loss {last.loss:.5g}, "
            f"gradient norm {last.gradient_norm:.5g}, learning rate {last.learning_rate:.3g}"
        )
    return NonFiniteError(
        f"step {step}: loss {loss}, gradient norm {norm}; {where}; {before}. Nothing was applied",
        DATA_REMEDY if bad else REMEDY,
    )
