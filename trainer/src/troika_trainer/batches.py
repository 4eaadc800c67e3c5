"""Which examples make step s: a pure function of seed and step, whatever the number of ranks."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil

import numpy as np

from troika_api.v1alpha1.training import Training

from .batch import Batch, Examples, Integers
from .errors import ConfigError
from .place import Place
from .randomness import permute

MAX_DEFAULT_MICRO_BATCH = 32


@dataclass(frozen=True)
class Order:
    """The order of the examples over all epochs. Resuming at any step costs nothing."""

    size: int
    """Examples in the split."""
    batch: int
    """Examples in a step, over all ranks."""
    seed: int

    def step(self, step: int) -> tuple[Integers, Integers]:
        """The examples of step 1, 2, ... and the epoch of each; both of shape [batch]."""
        positions = np.arange((step - 1) * self.batch, step * self.batch)
        epochs, indices = positions // self.size, positions % self.size
        for epoch in np.unique(epochs).tolist():
            of_epoch = epochs == epoch
            indices[of_epoch] = permute(indices[of_epoch], self.size, self.seed, epoch)
        return indices, epochs

    def epoch(self, step: int) -> float:
        """Passes over the data after this step."""
        return step * self.batch / self.size

    def last_step_of(self, epoch: int) -> int:
        """The step that completes this many epochs."""
        return ceil(epoch * self.size / self.batch)


class Batches:
    """The share of one rank, cut into micro-batches."""

    def __init__(self, examples: Examples, order: Order, *, place: Place, micro: int) -> None:
        if place.world_size > order.batch:
            raise ConfigError(
                f"training.globalBatchSize {order.batch} is less than the {place.world_size} ranks",
                "raise it, or ask for fewer nodes or GPUs",
            )
        self._examples, self._order, self._place, self._micro = examples, order, place, micro

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of this rank for a step; at least one.

        The examples are sorted by length and dealt out in turn: every rank gets as many long ones
        as the others, and those that share a micro-batch need little padding.
        """
        indices, epochs = self._order.step(step)
        by_length = np.argsort(self._examples.lengths(indices), kind="stable")
        mine = by_length[self._place.rank :: self._place.world_size]
        parts = [mine[start : start + self._micro] for start in range(0, len(mine), self._micro)]
        return [self._examples.batch(indices[part], epochs[part]) for part in parts]


def micro_batch_size(training: Training, place: Place) -> int:
    """Examples in one forward pass of one rank; accumulation makes up its share of a step."""
    share = ceil(training.global_batch_size / place.world_size)
    wanted = training.micro_batch_size or MAX_DEFAULT_MICRO_BATCH
    return max(1, min(wanted, share) // place.micro_batch_divisor)


class Ahead:
    """Makes the batches of the next step in a thread while this one is computed."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[int, Future[list[Batch]]] | None = None

    def step(self, step: int) -> list[Batch]:
        """The batches of a step; ready at once where it follows the last one."""
        if self._next is None or self._next[0] != step:
            self._ask(step)
        assert self._next is not None
        batches = self._next[1].result()
        self._ask(step + 1)
        return batches

    def _ask(self, step: int) -> None:
        self._next = (step, self._pool.submit(self._batches.step, step))


def whole_split(examples: Examples, *, limit: int | None, batch: int) -> Iterator[Integers]:
    """The first `limit` examples, in batches of similar length."""
    size = len(examples) if limit is None else min(limit, len(examples))
    indices = np.arange(size)
    by_length = indices[np.argsort(examples.lengths(indices), kind="stable")]
    for start in range(0, size, batch):
        yield by_length[start : start + batch]
