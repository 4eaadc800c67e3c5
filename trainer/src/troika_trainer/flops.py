"""Model FLOPs by the rules of the literature: what the model needs, not what the device did.

A token costs 6 FLOPs for each weight of a matrix product (2 forward, 4 backward) and attention
costs 12 x layers x width for each pair of positions that the sequence has. Embedding look-ups,
padding and recomputation count nothing; heads count for the tokens that they are run on.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_PEAK_DENSE_BF16 = {
    "A100": 312e12,
    "A800": 312e12,
    "A6000": 154.85e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "H800": 756e12,
    "H20": 148e12,
    "B200": 2250e12,
    "GB200": 2500e12,
    "MI250X": 383e12,
    "MI300X": 1307e12,
}
"""FLOP/s of one device without sparsity, by a part of its name."""


@dataclass(frozen=True)
class FlopCounter:
    """FLOPs of training, forward and backward, of one model."""

    body: float
    """For each token."""
    head: float
    """For each token, or each predicted one, that the head is run on."""
    pair: float
    """For each pair of positions in one sequence, over all layers."""

    def count(self, *, tokens: float, heads: float, pairs: float) -> float:
        """FLOPs of a batch.

        Args:
            tokens: Real tokens.
            heads: Positions that the head was run on.
            pairs: Sum over the sequences of their length squared.
        """
        return self.body * tokens + self.head * heads + self.pair * pairs


def flop_counter(model: PreTrainedModel) -> FlopCounter:
    """Count the matrix products of a model."""
    body = {
        id(module)
        for module in model.base_model.modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    weights = {True: 0, False: 0}
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D):
            weights[id(module) in body] += module.weight.numel()
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1))
    layers = getattr(config, "num_hidden_layers", 0)
    return FlopCounter(
        body=6.0 * weights[True], head=6.0 * weights[False], pair=12.0 * layers * width
    )


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of a device, or None where it is not known: no MFU beats a guess."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = [part for part in _PEAK_DENSE_BF16 if part in name]
    return _PEAK_DENSE_BF16[max(known, key=len)] if known else None
