"""Cross-entropy over a vocabulary without ever holding the logits of all positions.

The logits are made a block of positions at a time, and with them, at once, the gradient: what the
backward pass needs is then as small as the hidden states and the weight. Otherwise it would be
positions x vocabulary numbers, several times over: most of the memory of a language model, and on
a CPU much of its time.
"""

from typing import Any

import torch
from torch.nn.functional import linear, log_softmax
from typing_extensions import override

BLOCK = 1 << 24
"""Logits at a time: large enough for matrix products at full speed."""
SMALLEST_BLOCK = 512
"""Positions: with fewer, adding to the gradient of the weight takes longer than its product."""
IN_CACHE = 1 << 20
"""Logits at a time in the softmax on a CPU, where what leaves the cache costs more than it does."""


def summed_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
) -> torch.Tensor:
    """The same as `cross_entropy(linear(hidden, weight, bias), labels, reduction="sum")`.

    Under autocast the products are in its type, and sums and softmax in float32, as they would be.

    Args:
        hidden: What the output layer is given, shape [positions, width].
        weight: Of the output layer, shape [vocabulary, width].
        bias: Of the output layer, shape [vocabulary], or None.
        labels: Shape [positions]; every position has one.

    Returns:
        Summed loss, shape [], float32.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        loss: torch.Tensor = _SummedCrossEntropy.apply(hidden, weight, bias, labels, dtype)
    return loss


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    @override
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        of_hidden, of_weight, of_bias, *_ = ctx.needs_input_grad
        cast = weight.to(dtype)
        cast_bias = None if bias is None else bias.to(dtype)
        loss = torch.zeros((), device=hidden.device)
        d_hidden = torch.empty_like(hidden) if of_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if of_weight else None
        d_bias = torch.zeros_like(weight[:, 0], dtype=torch.float32) if of_bias else None
        rows = min(4096, max(SMALLEST_BLOCK, BLOCK // len(weight)))
        for start in range(0, len(hidden), rows):
            part, wanted = hidden[start : start + rows].to(dtype), labels[start : start + rows]
            block = linear(part, cast, cast_bias)
            loss += _to_gradient(block, wanted, keep=of_hidden or of_weight or of_bias)
            if d_hidden is not None:
                d_hidden[start : start + rows] = block @ cast
            if d_weight is not None:
                d_weight += block.t() @ part
            if d_bias is not None:
                d_bias += block.sum(0, dtype=torch.float32)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.types = (weight.dtype, None if bias is None else bias.dtype)
        return loss

    @staticmethod
    @override
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        d_hidden, d_weight, d_bias = (
            None if saved is None else saved * grads[0] for saved in ctx.saved_tensors
        )
        of_weight, of_bias = ctx.types
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(of_weight),
            None if d_bias is None else d_bias.to(of_bias),
            None,
            None,
        )


def _to_gradient(logits: torch.Tensor, labels: torch.Tensor, *, keep: bool) -> torch.Tensor:
    """Sum the losses of a block; where it is to be kept, turn it into its own gradient in place.

    Args:
        logits: Shape [positions, vocabulary].
        labels: Shape [positions].
        keep: Whether anybody wants the gradient.
    """
    loss = torch.zeros((), device=logits.device)
    on_cpu = logits.device.type == "cpu"
    rows = max(1, IN_CACHE // logits.shape[1]) if on_cpu else len(logits)
    for start in range(0, len(logits), rows):
        block, wanted = logits[start : start + rows], labels[start : start + rows, None]
        log_p = log_softmax(block, dim=-1, dtype=torch.float32)
        loss -= log_p.gather(1, wanted).sum()
        if keep:
            p = log_p.exp_()
            p.scatter_add_(1, wanted, torch.full_like(wanted, -1.0, dtype=torch.float32))
            block.copy_(p)
    return loss
