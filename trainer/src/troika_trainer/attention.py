"""Attention over short sequences on the CPU, where float32 is the faster type; and whose masks.

The backward pass of torch's kernel for the CPU is slow in bfloat16. Measured on two cores with AMX,
forward and backward, 4 heads of 64: 5.6 ms in bfloat16 and 1.3 ms in float32 for 32 x 30 tokens,
12.0 and 6.3 ms for 16 x 128, and the same for 16 x 256.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel, masking_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_as_transformers: Callable[..., tuple[torch.Tensor, None]] = sdpa_attention_forward

SHORT = 128
"""Tokens up to which float32 is faster."""


def use_fast_attention() -> None:
    """Let all models of this process that attend by SDPA do it as `attend` does."""
    AttentionInterface.register("sdpa", attend)


@contextmanager
def rows_known(*, packed: bool) -> Iterator[None]:
    """Tell transformers whether rows hold several examples; else it looks at their positions.

    To look is to wait for the device in every forward pass. And what is compiled cannot look: there
    every decoder would get a mask of all pairs of tokens, with which no flash attention runs.

    Args:
        packed: Whether they may, in this process.
    """
    ours: tuple[tuple[Any, str, Any], ...] = (
        (masking_utils, "find_packed_sequence_indices", _examples if packed else _one_example),
        (PreTrainedModel, "warn_if_padding_and_no_attention_mask", _no_warning),
    )
    theirs = [getattr(owner, name) for owner, name, _ in ours]
    for owner, name, function in ours:
        setattr(owner, name, function)
    try:
        yield
    finally:
        for (owner, name, _), function in zip(ours, theirs, strict=True):
            setattr(owner, name, function)


def _no_warning(*_: object) -> None:
    """All padding has a mask here; to look for some is to wait, too."""


def _one_example(_positions: torch.Tensor) -> None:
    """Rows hold one example each."""


def _examples(positions: torch.Tensor) -> torch.Tensor:
    """Which example of its row each token belongs to, numbered from 0; the shape of `positions`."""
    return torch.nn.functional.pad(positions.diff(dim=-1) != 1, (1, 0)).cumsum(-1)


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers does, in the type that is faster.

    Args:
        module: The layer.
        query: Shape [samples, heads, tokens, width].
        key: Shape [samples, heads of keys, tokens attended to, width].
        value: The same shape as `key`.
        attention_mask: True, or 0, where a token is seen; [samples, 1 or heads, tokens, tokens].
        options: More of transformers' arguments.

    Returns:
        Shape [samples, tokens, heads, width]; no weights.
    """
    if query.device.type != "cpu" or max(query.shape[-2], key.shape[-2]) > SHORT:
        return _as_transformers(module, query, key, value, attention_mask, **options)
    wanted = query.dtype
    if torch.is_autocast_enabled("cpu"):
        wanted = torch.get_autocast_dtype("cpu")
    options["position_bias"] = _widened(options.get("position_bias"))
    mask = _widened(attention_mask)
    with torch.autocast("cpu", enabled=False):
        found, _ = _as_transformers(
            module, query.float(), key.float(), value.float(), mask, **options
        )
    return found.to(wanted), None


def _widened(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A mask that is added must be of the type of the queries; one of booleans stays."""
    return mask.float() if mask is not None and mask.is_floating_point() else mask
