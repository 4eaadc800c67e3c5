"""Running averages of what batch norms have seen: each rank's are of its own share of the data.

A forward pass in training moves them and does not read them, so they may differ between the ranks
for a while. Where they are read, in evaluation and in what is saved, they must be those of the
whole batch. They move by a weighted mean, and so does their mean over the ranks: how often it is
taken changes nothing but the rounding.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from .distributed import Group


class RunningAverages:
    """The running averages of a model that its training moves; most models have none."""

    def __init__(self, model: nn.Module) -> None:
        self._norms = [module for module in model.modules() if isinstance(module, _NormBase)]

    def _moved(self) -> list[torch.Tensor]:
        """As they are now: a move to another device makes new ones."""
        norms = [norm for norm in self._norms if norm.training and norm.track_running_stats]
        return [buffer for norm in norms for buffer in norm.buffers(recurse=False)]

    @torch.no_grad()
    def share(self, group: Group) -> None:
        """Give all ranks the mean of theirs; of whole numbers, the first rank's.

        All ranks call this together; one small all-reduce, where there is something to share.
        """
        buffers = self._moved()
        if group.size == 1 or not buffers:
            return
        # In float64, in which equal values have exactly themselves for a mean.
        share = {True: 1.0 / group.size, False: float(group.is_first)}
        sums = group.sum(
            torch.cat([b.double().flatten() * share[b.is_floating_point()] for b in buffers])
        )
        parts = torch.split(sums, [buffer.numel() for buffer in buffers])
        for buffer, part in zip(buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))

    @contextlib.contextmanager
    @torch.no_grad()
    def untouched(self) -> Iterator[None]:
        """Around a trial: what it has seen does not count."""
        buffers = self._moved()
        before = [buffer.clone() for buffer in buffers]
        yield
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
