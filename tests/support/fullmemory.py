"""Memory that runs out for real, in the middle of a backward pass, on one rank.

In the child of a nursery: ``NURSERY_SETUP=support.fullmemory:of_environment``.
"""

import os

import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.hooks import RemovableHandle

TOO_MUCH = 1 << 50
"""Bytes: more than any address space holds, so that the allocator itself says no."""


def fill(*, above: int, after: int = 0, evaluating: bool = False) -> RemovableHandle:
    """Let the gradient of the first layer of a BERT need too much, or its result in evaluation.

    Args:
        evaluating: In evaluation, in place of training.
        above: Samples that fit.
        after: Passes over more than that which go well before.
    """
    passes = 0

    def too_much(_gradient: torch.Tensor) -> None:
        torch.empty(TOO_MUCH, dtype=torch.uint8)

    def watch(module: torch.nn.Module, _args: object, output: object) -> None:
        nonlocal passes
        if not type(module).__name__.endswith("BertEmbeddings"):
            return
        assert isinstance(output, torch.Tensor)
        if evaluating and not module.training and output.shape[0] > above:
            too_much(output)
        if not evaluating and output.requires_grad and output.shape[0] > above:
            passes += 1
            if passes > after:
                output.register_hook(too_much)  # type: ignore[no-untyped-call]

    return register_module_forward_hook(watch)


def of_environment() -> None:
    """On rank FULL_RANK, above FULL_ABOVE samples, after FULL_AFTER passes."""
    if os.environ["RANK"] == os.environ["FULL_RANK"]:
        fill(above=int(os.environ["FULL_ABOVE"]), after=int(os.environ["FULL_AFTER"]))
