"""A copy of the model on each rank; gradients travel while the backward pass still runs.

This is what torch's DistributedDataParallel does, with one difference that cannot be had from it: a
rank whose memory runs out in the middle can end the step in order. Its reducer waits for a backward
pass that never ends, and the other ranks wait for it inside a collective for ever.

Here the buckets lie in an order that all ranks share, each is reduced once in every step, and only
after the one before it. A rank that ran out of memory reduces the rest of its buckets as they are
(`settle`): no rank waits in vain, collectives stay paired, and what is in the buckets does not
matter, for the ranks then agree that the step is void (`loop.py`). A reduction needs no memory: it
runs in place in buckets that exist from the start, as do NCCL's buffers since `_equalise`.

Every trained weight is in a bucket, for a rank cannot know what a pass of another one reaches: an
expert that none of its tokens chose, a layer that was skipped. Beside each gradient travels whether
there was one; a weight that no rank reached has none afterwards, as on a rank alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import nn
from typing_extensions import override

from .batch import Batch
from .distributed import Group
from .strategy import Strategy
from .tasks.base import Objective

BUCKET_BYTES = 25 << 20
"""As in torch: large enough to use the network well, small enough to be on its way early."""
FIRST_BUCKET_BYTES = 1 << 20


@dataclass
class Bucket:
    """Some gradients in one piece of memory."""

    weights: list[nn.Parameter]
    flat: torch.Tensor
    """Their gradients, one after the other, and `reached`. Shape [elements + weights]."""
    reached: torch.Tensor
    """The end of `flat`: above 0 where any rank has a gradient for a weight. Shape [weights]."""
    came: list[bool]
    """For which weights this rank has one, from any micro-batch of the step."""
    missing: int = 0
    """Gradients of the last micro-batch that have not arrived."""
    views: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, weights: list[nn.Parameter]) -> "Bucket":
        """Room for the gradients of weights of one type."""
        flat = torch.zeros(
            sum(weight.numel() for weight in weights) + len(weights),
            dtype=weights[0].dtype,
            device=weights[0].device,
        )
        *parts, reached = torch.split(flat, [*(w.numel() for w in weights), len(weights)])
        views = [part.view_as(weight) for part, weight in zip(parts, weights, strict=True)]
        return cls(weights, flat, reached, came=[False] * len(weights), views=views)

    def attach(self) -> None:
        """Let the backward pass add to this memory."""
        for weight, view in zip(self.weights, self.views, strict=True):
            weight.grad = view

    def say_what_came(self) -> None:
        """Before the exchange: tell the other ranks for which weights this one has a gradient."""
        if all(self.came):
            self.reached.fill_(1.0)
        else:
            self.reached.copy_(torch.tensor(self.came))

    def detach_unreached(self) -> None:
        """After it: zeros are no gradient, by which the optimizer would decay a weight."""
        if all(self.came):
            return  # nothing to ask the device for
        for weight, reached in zip(self.weights, self.reached.tolist(), strict=True):
            if not reached:
                weight.grad = None

    def clear(self) -> None:
        """Zero, and no gradient: torch's checkpoints take one for a step that was not finished."""
        self.flat.zero_()
        self.came = [False] * len(self.weights)
        for weight in self.weights:
            weight.grad = None


class Replicated(Strategy):
    """Averages gradients over the ranks, bucket by bucket."""

    def __init__(self, objective: Objective, group: Group, *, trial: Batch) -> None:
        """Make all ranks equal and find out in which order gradients arrive.

        Args:
            objective: On its device.
            group: More than one rank.
            trial: The same on every rank. One pass over it shows in which order gradients arrive;
                those that it does not reach are exchanged last, at the end of the backward pass.
        """
        super().__init__(objective, group)
        self._equalise()
        reached, others = self._order_of_arrival(trial)
        self._buckets = [*_filled(reached), *_filled(others)]
        self._open = False
        self._next = 0
        self._works: list[dist.Work] = []
        for bucket in self._buckets:
            for number, weight in enumerate(bucket.weights):
                weight.register_post_accumulate_grad_hook(self._arrived(bucket, number))  # type: ignore[no-untyped-call]

    @override
    @contextlib.contextmanager
    def exchanging(self, *, gradients: bool) -> Iterator[None]:
        for bucket in self._buckets:
            bucket.attach()
        if gradients:
            self._begin()
        yield

    @override
    def settle(self) -> None:
        if not self._open:
            self._begin()
        while self._next < len(self._buckets):
            self._reduce_next()
        for work in self._works:
            work.wait()
        for bucket in self._buckets:
            bucket.detach_unreached()
        self._open = False

    @override
    def clear(self) -> None:
        for bucket in self._buckets:
            bucket.clear()

    def _begin(self) -> None:
        self._open, self._next, self._works = True, 0, []
        for bucket in self._buckets:
            bucket.missing = len(bucket.weights)

    def _arrived(self, bucket: Bucket, number: int) -> Callable[[torch.Tensor], None]:
        def arrived(_weight: torch.Tensor) -> None:
            bucket.came[number] = True
            if not self._open:
                return
            bucket.missing -= 1
            while self._next < len(self._buckets) and not self._buckets[self._next].missing:
                self._reduce_next()

        return arrived

    def _reduce_next(self) -> None:
        bucket = self._buckets[self._next]
        bucket.say_what_came()
        flat = bucket.flat.div_(self.group.size)
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        self._works.append(work)
        self._next += 1

    @torch.no_grad()
    def _equalise(self) -> None:
        """Weights and buffers of the first rank for all: they should be the same, now they are."""
        for tensor in (*self.objective.parameters(), *self.objective.buffers()):
            value = tensor.contiguous()
            dist.broadcast(value, src=0)
            if value is not tensor:
                tensor.copy_(value)

    def _order_of_arrival(self, trial: Batch) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The trained weights that a backward pass reaches, as it reaches them; and the others."""
        weights = [weight for weight in self.objective.parameters() if weight.requires_grad]
        numbers = {id(weight): number for number, weight in enumerate(weights)}
        order: list[int] = []
        hooks = [
            weight.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                lambda w: order.append(numbers[id(w)])
            )
            for weight in weights
        ]
        with self.averages.untouched():
            loss, _ = self.objective(trial.to(self.group.device))
            loss.backward()
        for hook in hooks:
            hook.remove()
        self.objective.zero_grad(set_to_none=True)
        order = self.group.from_first(lambda: order)
        others = sorted(set(numbers.values()) - set(order))
        return [weights[number] for number in order], [weights[number] for number in others]


def _filled(weights: list[nn.Parameter]) -> list[Bucket]:
    """The weights in buckets, in this order; a bucket holds one type."""
    groups: list[list[nn.Parameter]] = []
    room = 0
    for weight in weights:
        if not groups or weight.nbytes > room or weight.dtype != groups[-1][0].dtype:
            room = BUCKET_BYTES if groups else FIRST_BUCKET_BYTES
            groups.append([])
        groups[-1].append(weight)
        room -= weight.nbytes
    return [Bucket.of(group) for group in groups]
