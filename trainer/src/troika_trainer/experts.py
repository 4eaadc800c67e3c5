"""Mixtures of experts: which share of their weights a token is multiplied with."""

from torch import nn
from transformers import PreTrainedModel


def shares(model: PreTrainedModel) -> dict[nn.Module, float] | None:
    """For each router, and each stack of experts, the share of its matrices that a token meets.

    transformers keeps the experts of a layer in one module, as weights of shape [experts, ...], and
    beside it a router that knows how many of them a token is sent to. Routers that are of a kind
    that is counted anyway, and experts that all tokens share, are not among these.

    Returns:
        None where a model has experts in another form: how many a token meets is not told there.
    """
    found: dict[nn.Module, float] = {}
    modules = dict(model.named_modules())
    for name, module in modules.items():
        above, _, last = name.rpartition(".")
        if hasattr(module, "is_concatenated"):  # as transformers' decorator for experts leaves it
            router = _router(modules[above], module)
            if router is None:
                return None
            found[module] = int(router.top_k) / int(module.num_experts)  # type: ignore[arg-type]
            if not isinstance(router, nn.Linear):
                found[router] = 1.0
        elif last == "experts" or _is_stack(module):
            return None
    return found


def matrices(module: nn.Module) -> list[nn.Parameter]:
    """Weights of a module's own that are multiplied with, biases and norms left out."""
    own = list(module.parameters(recurse=False))
    return [weight for weight in own if weight.ndim == max(w.ndim for w in own)]


def _router(block: nn.Module, experts: nn.Module) -> nn.Module | None:
    """What sends tokens to the experts beside it, where it is the one, and of all of them."""
    routers = [
        child for child in block.children() if isinstance(getattr(child, "top_k", None), int)
    ]
    if len(routers) != 1:
        return None
    weight = getattr(routers[0], "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim != 2:
        return None
    numbers = {matrix.shape[0] for matrix in (weight, *matrices(experts))}
    return routers[0] if numbers == {experts.num_experts} else None


def _is_stack(module: nn.Module) -> bool:
    """Whether a module holds several matrices in one weight; a convolution's has one kernel."""
    if isinstance(module, nn.modules.conv._ConvNd):  # noqa: SLF001 - what all of them derive from
        return False
    return any(w.ndim == 3 and w.shape[0] > 1 for w in module.parameters(recurse=False))
