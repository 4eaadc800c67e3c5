"""Frozen weights in the type that they are used in.

Under autocast a float32 weight is cast in every forward pass, and what was cast is kept for the
backward pass. Those that are trained must stay float32; a frozen one may be cast once, to the same
numbers, and then costs neither that time nor that memory.
"""

import re
from collections import Counter
from collections.abc import Callable
from hashlib import sha256

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

_PEFT = re.compile(r"\.(base_layer|original_module)(?=\.)")
"""What peft puts into the names of weights that stay as they were."""


SAMPLED = 1024
"""Numbers of each weight that go into a digest: models that differ, differ nearly everywhere."""


def digest_of_frozen(model: nn.Module) -> str | None:
    """What a checkpoint does not hold, told apart from that of another model.

    Args:
        model: As it was loaded, before anything is cast or shared out.

    Returns:
        A digest of some of every frozen weight; None where everything is trained.
    """
    frozen = [weight.detach() for weight in model.parameters() if not weight.requires_grad]
    if not frozen:
        return None
    digest = sha256()
    for weight in frozen:
        digest.update(repr(tuple(weight.shape)).encode())
        some = weight.flatten()[:: -(-weight.numel() // SAMPLED) or 1]
        digest.update(some.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def cast_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the frozen weights of matrix products, in place.

    Those that another kind of layer reads too, such as an embedding, stay as they are: autocast
    does not cast them there.
    """
    users = Counter(id(weight) for module in model.modules() for weight in _own(module))
    for module in model.modules():
        if type(module) in (nn.Linear, Conv1D):
            for weight in _own(module):
                if not weight.requires_grad and users[id(weight)] == 1:
                    weight.data = weight.data.to(dtype)


def restore_frozen(model: nn.Module, original: Callable[[], nn.Module]) -> None:
    """Undo `cast_frozen`: give every frozen weight the value and type that it came with.

    Args:
        model: With or without an adapter in it.
        original: Loads the model as it was before; called only where something was cast.
    """
    cast = {
        _PEFT.sub("", name): weight
        for name, weight in model.named_parameters()
        if not weight.requires_grad and weight.dtype is torch.bfloat16
    }
    if cast:
        weights = dict(original().named_parameters())
        for name, weight in cast.items():
            weight.data = weights[name].data.to(weight.device)


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))
