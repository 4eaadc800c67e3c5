"""The layers of a model: what repeats, by the names that transformers gives it."""

from torch import nn
from transformers import PreTrainedModel


def layers_of(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks that stand one after the other, in their order; never one inside another.

    A block is a module of a class that must not be split (`_no_split_modules`), in a list. One that
    shares a weight with the rest of the model, such as a tied head, is none.
    """
    kinds = set(model._no_split_modules or ())  # noqa: SLF001 - transformers' own way to ask
    listed = [
        block for list_ in model.modules() if isinstance(list_, nn.ModuleList) for block in list_
    ]
    named = [block for block in listed if type(block).__name__ in kinds]
    outermost: list[nn.Module] = []
    inside: set[int] = set()
    for block in named or listed:
        if id(block) not in inside and any(True for _ in block.parameters()):
            inside |= {id(part) for part in block.modules()}
            outermost.append(block)
    return [block for block in outermost if not _shares(block, model)]


def _shares(block: nn.Module, model: nn.Module) -> bool:
    """Whether a weight of the block has a second name outside of it."""
    own = {id(part) for part in block.modules()}
    weights = {id(weight) for weight in block.parameters()}
    return any(
        id(weight) in weights
        for part in model.modules()
        if id(part) not in own
        for weight in part.parameters(recurse=False)
    )
