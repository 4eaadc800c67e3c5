"""Activation checkpointing: memory for arithmetic, layer by layer, with the same result."""

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from troika_api.v1alpha1.training import ActivationCheckpointing

from .errors import ConfigError

_ATEN = torch.ops.aten

KEPT: list[Any] = [
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN.baddbmm.default,
    _ATEN._scaled_mm.default,  # noqa: SLF001 - FP8
    _ATEN._scaled_dot_product_flash_attention.default,  # noqa: SLF001
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,  # noqa: SLF001
    _ATEN._scaled_dot_product_efficient_attention.default,  # noqa: SLF001
    _ATEN._scaled_dot_product_cudnn_attention.default,  # noqa: SLF001
    _ATEN._scaled_dot_product_attention_math.default,  # noqa: SLF001
]
"""Operators whose results `Selective` keeps: nearly all of the work, and half of the memory."""


def checkpoint_activations(model: PreTrainedModel, kind: ActivationCheckpointing) -> None:
    """Let the layers of a model compute again in the backward pass what they did not keep.

    transformers wraps the layers' forward methods, inside of the hooks by which FSDP2 gathers their
    weights, and keeps generation caches out. Dropout draws the same neurons the second time.

    Raises:
        ConfigError: the architecture has no layers that could.
    """
    if kind is ActivationCheckpointing.NONE:
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if kind is ActivationCheckpointing.SELECTIVE:
        options["context_fn"] = partial(create_selective_checkpoint_contexts, KEPT)
    try:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    except ValueError as error:
        raise ConfigError(
            f"training.activationCheckpointing {kind.value}: {type(model).__name__} has no layers "
            "that transformers can compute again",
            "leave it out, and lower training.microBatchSize instead",
        ) from error
