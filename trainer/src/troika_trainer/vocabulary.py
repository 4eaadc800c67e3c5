"""Cross-entropy over a vocabulary without ever holding the logits of all positions.

The logits are made a block of positions at a time, and with them, at once, the gradient: what the
backward pass needs is then as small as the hidden states and the weight. Otherwise it would be
positions x vocabulary numbers, several times over: most of the memory of a language model, and on
a CPU much of its time.
"""

from typing import Any

import torch
from torch.nn.functional import linear, log_softmax

BLOCK = 1 << 24
"""Logits at a time on a CPU: large enough for matrix products at full speed."""
SMALLEST_BLOCK = 512
"""Positions: with fewer, adding to the gradient of the weight takes longer than its product."""
LARGEST_BLOCK = 4096
"""Positions on a CPU."""
IN_CACHE = 1 << 20
"""Logits at a time in the softmax on a CPU, where what leaves the cache costs more than it does."""
BLOCK_ON_GPU = 1 << 27
"""Logits at a time on a GPU: 0.8 GB, in bfloat16 and once more in float32 for the softmax.

Worked out from an H100's data sheet, not measured: every block reads and writes the gradient of the
weight (50,304 x 768 numbers in float32: 154 MB) and writes and reads its own part of it in
bfloat16, together 0.14 ms at 3.35 TB/s. The products and the softmax of 512 positions take about
0.4 ms, those of the 2,668 that this allows five times as long: 7 % are lost instead of a quarter.
"""


def summed_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    *,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """The same as `cross_entropy(linear(hidden, weight, bias), labels, reduction="sum")`.

    Under autocast the products are in its type, and sums and softmax in float32, as they would be.

    Args:
        hidden: What the output layer is given, shape [positions, width].
        weight: Of the output layer, shape [vocabulary, width].
        bias: Of the output layer, shape [vocabulary], or None.
        labels: Shape [positions]; every position has one.
        smoothing: Share of the truth that all words have in equal parts (label smoothing).

    Returns:
        Summed loss, shape [], float32.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    learns = torch.is_grad_enabled()
    wanted = [
        learns and tensor is not None and tensor.requires_grad for tensor in (hidden, weight, bias)
    ]
    loss: torch.Tensor = _losses_and_gradients(
        hidden, weight, bias, labels, dtype, smoothing, *wanted
    )[0]
    return loss


@torch.library.custom_op("troika::summed_cross_entropy", mutates_args=())
def _losses_and_gradients(  # noqa: PLR0913, PLR0917 - an operator has no objects
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    dtype: torch.dtype,
    smoothing: float,
    of_hidden: bool,  # noqa: FBT001
    of_weight: bool,  # noqa: FBT001
    of_bias: bool,  # noqa: FBT001
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss and gradients, the ones that are wanted; an operator, so that compilers take it whole.

    Returns:
        The loss, shape [], and the gradients of hidden states, weight and bias; those that nobody
        wants are empty.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        cast = weight.to(dtype)
        cast_bias = None if bias is None else bias.to(dtype)
        loss, d_hidden, d_weight, d_bias = _empty(hidden, weight, of_hidden, of_weight, of_bias)
        for made in (loss, d_weight, d_bias):
            made.zero_()
        rows = _rows(hidden.device, len(weight))
        for start in range(0, len(hidden), rows):
            part, wanted = hidden[start : start + rows].to(dtype), labels[start : start + rows]
            block = linear(part, cast, cast_bias)
            loss += _to_gradient(
                block, wanted, smoothing=smoothing, keep=of_hidden or of_weight or of_bias
            )
            if of_hidden:
                d_hidden[start : start + rows] = block @ cast
            if of_weight:
                d_weight += block.t() @ part
            if of_bias:
                d_bias += block.sum(0, dtype=torch.float32)
    return loss, d_hidden, d_weight, d_bias


@_losses_and_gradients.register_fake
def _shapes(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    _bias: torch.Tensor | None,
    _labels: torch.Tensor,
    _dtype: torch.dtype,
    _smoothing: float,
    of_hidden: bool,  # noqa: FBT001
    of_weight: bool,  # noqa: FBT001
    of_bias: bool,  # noqa: FBT001
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    return _empty(hidden, weight, of_hidden, of_weight, of_bias)


def _empty(
    hidden: torch.Tensor, weight: torch.Tensor, *wanted: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Memory for the loss and the gradients that are wanted."""
    of_hidden, of_weight, of_bias = wanted
    words, width = weight.shape
    return (
        weight.new_empty((), dtype=torch.float32),
        hidden.new_empty(hidden.shape if of_hidden else (0,)),
        weight.new_empty((words, width) if of_weight else (0,), dtype=torch.float32),
        weight.new_empty((words,) if of_bias else (0,), dtype=torch.float32),
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    _, weight, bias, *_, of_hidden, of_weight, of_bias = inputs
    ctx.wanted = of_hidden, of_weight, of_bias
    ctx.types = weight.dtype, None if bias is None else bias.dtype
    ctx.save_for_backward(*output[1:])
    ctx.set_materialize_grads(False)  # of the gradients, which nobody differentiates


def _backward(ctx: Any, gradient: torch.Tensor, *_: None) -> tuple[torch.Tensor | None, ...]:
    d_hidden, d_weight, d_bias = (
        saved * gradient if wanted else None
        for saved, wanted in zip(ctx.saved_tensors, ctx.wanted, strict=True)
    )
    of_weight, of_bias = ctx.types
    return (
        d_hidden,
        None if d_weight is None else d_weight.to(of_weight),
        None if d_bias is None else d_bias.to(of_bias),
        *[None] * 6,
    )


_losses_and_gradients.register_autograd(_backward, setup_context=_remember)


def _rows(device: torch.device, words: int) -> int:
    """Positions in a block."""
    if device.type == "cpu":
        return min(LARGEST_BLOCK, max(SMALLEST_BLOCK, BLOCK // words))
    return max(SMALLEST_BLOCK, BLOCK_ON_GPU // words)


def _to_gradient(
    logits: torch.Tensor, labels: torch.Tensor, *, smoothing: float, keep: bool
) -> torch.Tensor:
    """Sum the losses of a block; where it is to be kept, turn it into its own gradient in place.

    Args:
        logits: Shape [positions, vocabulary].
        labels: Shape [positions].
        smoothing: Share of the truth that all words have in equal parts.
        keep: Whether anybody wants the gradient.
    """
    loss = torch.zeros((), device=logits.device)
    on_cpu = logits.device.type == "cpu"
    words = logits.shape[1]
    rows = max(1, IN_CACHE // words) if on_cpu else len(logits)
    for start in range(0, len(logits), rows):
        block, wanted = logits[start : start + rows], labels[start : start + rows, None]
        log_p = log_softmax(block, dim=-1, dtype=torch.float32)
        loss -= (1.0 - smoothing) * log_p.gather(1, wanted).sum()
        if smoothing:
            loss -= smoothing / words * log_p.sum()
        if keep:
            p = log_p.exp_()
            right = torch.full_like(wanted, smoothing - 1.0, dtype=torch.float32)
            p.scatter_add_(1, wanted, right)
            if smoothing:
                p -= smoothing / words
            block.copy_(p)
    return loss
