"""Model FLOPs by the rules of the literature: what the model needs, not what the device did.

A token costs 6 FLOPs for each weight of a matrix product (2 forward, 4 backward) and attention
costs 12 x layers x width for each pair of positions that the sequence has. A frozen weight needs no
gradient of its own: 4 FLOPs, or 2 where nothing before it is trained. Embedding look-ups,
padding and recomputation count nothing; heads count for the tokens that they are run on. In an
encoder-decoder what looks at the source counts for its tokens, the rest for those of the target.
Of experts a token needs those that it is sent to, and the router; where their number is not told
(`experts.py`) nothing is counted.
A sharded model counts as the whole one: tokens and peak are those of all ranks together.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from troika_api.v1alpha1.training import Precision

from . import experts

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
    "H200 NVL": 836e12,
    "H200": 989e12,
    "H800 PCIe": 756e12,
    "H800": 989e12,
    "H20": 148e12,
    "B200": 2250e12,
    "GB200": 2500e12,
    "MI250X": 191.5e12,  # of one of its two halves, which are a device each
    "MI300X": 1307e12,
}
"""FLOP/s of one device without sparsity, by words of its name."""
_PART_OF_A_DEVICE = re.compile(r"MIG|\d+[ABCQ]")
"""A word in the names of what is less than a device: "MIG 1g.5gb", and the profiles of vGPUs."""


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


def flop_counter(model: PreTrainedModel) -> FlopCounter | None:
    """Count the matrix products of a model; an encoder-decoder reads one text twice.

    None where it has experts and does not tell how many of them a token needs.
    """
    shares = experts.shares(model)
    if shares is None:
        return None
    # A pooler stands in the body, and is run on one token of a sequence, as the head above it.
    inner = model.base_model.named_modules()
    body = {id(module) for name, module in inner if "pooler" not in name}
    flops = {True: 0.0, False: 0.0}
    for _, module, cost in _products(model, shares):
        flops[id(module) in body] += cost
    sides = _attentions(model)
    return FlopCounter(body=flops[True], head=flops[False], pair=sum(sides) * _pair(model))


def two_sided_counter(model: PreTrainedModel, *, read: float | None = None) -> FlopCounter | None:
    """Count the matrix products of an encoder-decoder that reads one text and writes another.

    Its `heads` are the tokens that are written, its `pairs` the squared lengths of either side and
    their product: exact where encoder and decoder are equally deep.

    Args:
        model: The encoder-decoder.
        read: Tokens that the encoder is given for each of `tokens`. None: `tokens` are those of
            both sides.

    Returns:
        None as of `flop_counter`.
    """
    shares = experts.shares(model)
    if shares is None:
        return None
    flops = {True: 0.0, False: 0.0}
    for name, _, cost in _products(model, shares):
        flops[_is_of_source(name)] += cost
    reading, writing = flops[True], flops[False]
    sides = _attentions(model)
    pair = sum(sides) / len(sides) * _pair(model)
    if read is None:
        return FlopCounter(body=reading, head=writing - reading, pair=pair)
    return FlopCounter(body=reading * read, head=writing, pair=pair)


def _products(
    model: PreTrainedModel, shares: Mapping[nn.Module, float]
) -> Iterator[tuple[str, nn.Module, float]]:
    """Each matrix product of a model with what it costs a token, in the order of the pass.

    Args:
        model: The model.
        shares: Of which other modules a token meets which share (`experts.shares`).
    """

    def cost(weight: torch.Tensor) -> float:
        return 6.0 if weight.requires_grad else 4.0 if trained_before else 2.0

    trained_before = False
    # Modules stand in the order of the forward pass: a gradient reaches what comes after the first
    # trained weight, so a frozen one costs forward and backward (4) there, and forward (2) before.
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and "original_module" not in name:
            yield name, module, cost(module.weight) * _size(module)
        elif module in shares:
            for weight in experts.matrices(module):
                yield name, module, cost(weight) * shares[module] * weight.numel()
        own = module.parameters(recurse=False)
        trained_before = trained_before or any(weight.requires_grad for weight in own)


_CROSS = re.compile(r"\b(EncDecAttention|encoder_attn|encoder_attention|cross_?attention)\b")
"""What architectures call the decoder's attention to what the encoder has read."""
_KEYS_AND_VALUES = re.compile(r"\b(k|v|k_proj|v_proj|key|value)\b")


def _is_of_source(name: str) -> bool:
    """Whether a module is run on what the encoder reads: its own, and the decoder's view of it."""
    looked_at = _CROSS.search(name) and _KEYS_AND_VALUES.search(name)
    return "encoder" in name.split(".") or bool(looked_at)


def _attentions(model: PreTrainedModel) -> tuple[int, ...]:
    """Layers of attention: of the encoder or the only stack; of the decoder; between the two."""
    config = model.config.get_text_config()
    layers: int = getattr(config, "num_hidden_layers", 0)
    if not model.config.is_encoder_decoder:
        return (layers,)
    names = ("num_decoder_layers", "decoder_layers")
    of_decoder = next((getattr(config, name) for name in names if hasattr(config, name)), layers)
    return (layers, of_decoder, of_decoder)


def _pair(model: PreTrainedModel) -> float:
    """FLOPs of one layer of attention for a pair of positions."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    width: int = heads * (getattr(config, "head_dim", None) or config.hidden_size // max(heads, 1))
    return (12.0 if _trains_layers(model) else 4.0) * width


def _size(module: nn.Linear | Conv1D) -> int:
    """Weights of a matrix product; those in 4 bits are stored two in a byte."""
    if isinstance(module, nn.Linear):
        return module.in_features * module.out_features
    return module.weight.numel()


def _trains_layers(model: PreTrainedModel) -> bool:
    """Whether a gradient runs through attention: something numbered, a layer, is trained."""
    parts = (n.split(".") for n, w in model.base_model.named_parameters() if w.requires_grad)
    return any(part.isdigit() for name in parts for part in name)


def peak_flops(device: torch.device, precision: Precision) -> float | None:
    """Dense bf16 FLOP/s of a device, or None where it is not known: no MFU beats a guess.

    Under FP8 some products run at twice that rate and others do not, so that no peak is true.
    """
    if device.type != "cuda" or precision is Precision.FP8:
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Dense bf16 FLOP/s of the device that CUDA calls so, such as "NVIDIA A100-SXM4-80GB"."""
    words = set(re.split(r"[\s/_-]+", name.upper()))
    if any(_PART_OF_A_DEVICE.fullmatch(word) for word in words):
        return None
    known = [key for key in _PEAK_DENSE_BF16 if set(key.upper().split()) <= words]
    return _PEAK_DENSE_BF16[max(known, key=len)] if known else None
