"""Which examples make step s: a pure function of seed and step, whatever the number of ranks."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import IntEnum
from math import ceil
from typing import cast

import numpy as np
from typing_extensions import override

from troika_api.v1alpha1.training import Training

from .batch import Batch, Examples, Integers, Packable
from .errors import ConfigError
from .packing import best_fit
from .place import Place
from .randomness import permute
from .transfer import Sent, Transfer

MAX_DEFAULT_MICRO_BATCH = 32

MAX_DEFAULT_CPU_TOKENS = 4096
"""Most tokens in a forward pass on a CPU where the run names no size. Its cores are busy with that,
and what a pass of the longest examples holds is the peak of the whole run."""

WINDOW = 50
"""Steps within which examples of similar length are brought together."""

LARGEST_GROUP = 32

COST_OF_A_PASS = 256
"""What a forward and backward pass costs besides its tokens, in tokens: casting the weights, adding
to their gradients, starting its kernels. On two cores with 5 million parameters 450 were measured;
it is less here because the tokens of larger models cost more beside what does not grow."""

Lengths = Callable[[Integers], Integers]


class _Draw(IntEnum):
    """Independent streams of chance."""

    WINDOW = 1


@dataclass(frozen=True)
class Order:
    """The order of the examples over all epochs. Resuming at any step costs nothing.

    The examples are shuffled. Where they differ in length, those of a window of `WINDOW` steps are
    then sorted by length and cut into groups; every step gets some groups, drawn at random. So a
    step has examples of few lengths, and needs little padding, and what a step has depends neither
    on the number of ranks nor on the size of their micro-batches.
    """

    size: int
    """Examples in the split."""
    batch: int
    """Examples in a step, over all ranks."""
    seed: int
    lengths: Lengths | None = None
    """Tokens of examples, where they are to be grouped by length."""
    _kept: dict[int, tuple[Integers, Integers]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def of(cls, training: Training, examples: Examples, *, grouped: bool) -> "Order":
        """The order of a run.

        Args:
            training: Its batch size and seed.
            examples: What it learns from.
            grouped: Whether examples of similar length may share a step. Where an example is any
                number of predictions it may not: those of short ones would count more.
        """
        lengths = examples.lengths if grouped else None
        return cls(len(examples), training.global_batch_size, training.seed, lengths)

    def step(self, step: int) -> tuple[Integers, Integers]:
        """The examples of step 1, 2, ... and the epoch of each; both of shape [batch]."""
        first, last = self._window(step)
        if self.lengths is None or first == last:
            return self._shuffled(step, step)
        if first not in self._kept:
            self._kept.clear()
            self._kept[first] = self._grouped(first, last)
        indices, epochs = self._kept[first]
        mine = slice((step - first) * self.batch, (step - first + 1) * self.batch)
        return indices[mine], epochs[mine]

    def epoch(self, step: int) -> float:
        """Passes over the data after this step."""
        return step * self.batch / self.size

    def last_step_of(self, epoch: int) -> int:
        """The step that completes this many epochs."""
        return ceil(epoch * self.size / self.batch)

    def _window(self, step: int) -> tuple[int, int]:
        """First and last step of the window of a step. No window has examples of two epochs."""
        epoch = (step - 1) * self.batch // self.size
        begin = ceil(epoch * self.size / self.batch) + 1  # the first step with this epoch only
        end = (epoch + 1) * self.size // self.batch
        if not begin <= step <= end:
            return step, step
        first = step - (step - begin) % WINDOW
        return first, min(first + WINDOW - 1, end)

    def _shuffled(self, first: int, last: int) -> tuple[Integers, Integers]:
        """The examples of some steps, as the shuffle has them."""
        positions = np.arange((first - 1) * self.batch, last * self.batch)
        epochs, indices = positions // self.size, positions % self.size
        for epoch in np.unique(epochs).tolist():
            of_epoch = epochs == epoch
            indices[of_epoch] = permute(indices[of_epoch], self.size, self.seed, epoch)
        return indices, epochs

    def _grouped(self, first: int, last: int) -> tuple[Integers, Integers]:
        """The examples of a window, those of similar length together."""
        indices, epochs = self._shuffled(first, last)
        assert self.lengths is not None
        lengths = self.lengths(indices)
        if lengths.min() == lengths.max():
            return indices, epochs
        groups = indices[np.argsort(lengths, kind="stable")].reshape(-1, group_size(self.batch))
        turn = permute(np.arange(len(groups)), len(groups), self.seed, first, _Draw.WINDOW)
        return groups[turn].reshape(-1), epochs


def group_size(batch: int) -> int:
    """Examples of similar length that stay together in a step of so many.

    Enough for a pass that is worth its cost, and no more: a large step has several groups, for what
    examples of one length have in common should not be all that it learns from.
    """
    limit = min(LARGEST_GROUP, batch)
    sizes = range(limit, limit // 2, -1)
    return next((size for size in sizes if batch % size == 0), 1)


class StreamOrder(Order):
    """The order of examples that never end: those of a window are shuffled, then those of the next.

    `size` is that of a window. No two have the same number, so all are of the same epoch.
    """

    @override
    def step(self, step: int) -> tuple[Integers, Integers]:
        indices, windows = super().step(step)
        return windows * self.size + indices, np.zeros_like(windows)

    @override
    def epoch(self, step: int) -> float:
        """Nobody knows how long the data is."""
        return 0.0


class Batches:
    """The share of one rank, cut into micro-batches."""

    def __init__(
        self,
        examples: Examples,
        order: Order,
        *,
        place: Place,
        limit: int,
        room: int | None = None,
    ) -> None:
        """Share out an order.

        Args:
            examples: Of the split.
            order: Which of them make a step.
            place: The rank.
            limit: Most tokens in a micro-batch, padding included.
            room: Tokens in a row where examples are packed, several in a row; they must be
                `Packable`, and the same in every epoch.
        """
        if place.world_size > order.batch:
            raise ConfigError(
                f"training.globalBatchSize {order.batch} is less than the {place.world_size} ranks",
                "raise it, or ask for fewer nodes or GPUs",
            )
        self._examples, self._order, self._place, self._limit = examples, order, place, limit
        self._room = room

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of this rank for a step; at least one.

        The examples are sorted by length and dealt out in turn: every rank gets as many long ones
        as the others, and those that share a micro-batch need little padding. All ranks cut in the
        same places: where they hold parts of one model, each pass needs all of them.
        """
        indices, epochs = self._order.step(step)
        lengths = self._examples.lengths(indices)
        if self._room is not None:
            return self._packed(indices, lengths, room=self._room)
        by_length = np.argsort(lengths, kind="stable")
        mine, ends = dealt(lengths[by_length], place=self._place, limit=self._limit)
        parts = np.split(by_length[mine], ends[:-1])
        return [self._examples.batch(indices[part], epochs[part]) for part in parts]

    def _packed(self, indices: Integers, lengths: Integers, *, room: int) -> list[Batch]:
        rows = shared(best_fit(lengths, room=room), ranks=self._place.world_size)
        mine = [indices[row] for row in rows[self._place.rank :: self._place.world_size]]
        some = max(1, self._limit // room)
        packable = cast("Packable", self._examples)
        return [packable.packed(mine[at : at + some]) for at in range(0, len(mine), some)]


def dealt(lengths: Integers, *, place: Place, limit: int) -> tuple[Integers, list[int]]:
    """Deal examples out to the ranks in turn, and cut the share of one into micro-batches.

    Where the ranks cannot have equally many, the shortest example is left out for some. Every rank
    has as many micro-batches as the others.

    Args:
        lengths: Of the examples of a step, ascending, at least one for each rank.
        place: The rank.
        limit: Most tokens in a micro-batch, padding included.

    Returns:
        The places in `lengths` of the examples of this rank, and where its micro-batches end.
    """
    ranks, rank = place.world_size, place.rank
    missing = -len(lengths) % ranks  # in the first round
    ends = cut(lengths[ranks - missing - 1 :: ranks], limit=limit)  # by the longest of each round
    if missing and len(ends) > 1 and ends[0] == 1:
        ends = ends[1:]  # some ranks would have nothing to do
    mine = np.arange(rank - missing, len(lengths), ranks)
    if rank >= missing:
        return mine, ends
    return mine[1:], [end - 1 for end in ends]


def shared(rows: list[Integers], *, ranks: int) -> list[Integers]:
    """Take rows of several examples apart until all ranks get equally many, where they can."""
    rows = list(rows)
    while len(rows) % ranks:
        fullest = max(range(len(rows)), key=lambda row: len(rows[row]))
        if len(rows[fullest]) == 1:
            break
        half = len(rows[fullest]) // 2
        rows.append(rows[fullest][half:])
        rows[fullest] = rows[fullest][:half]
    return rows


def cut(lengths: Integers, *, limit: int, cost: int = COST_OF_A_PASS) -> list[int]:
    """Cut examples into micro-batches so that tokens, padding and passes cost least.

    Args:
        lengths: Of the examples, ascending, shape [samples].
        limit: Most tokens in a micro-batch, padding included; one example is always allowed.
        cost: Of a micro-batch besides its tokens, in tokens.

    Returns:
        Where each micro-batch ends.
    """
    least, begin = np.zeros(len(lengths) + 1), np.zeros(len(lengths) + 1, dtype=np.int64)
    for end, longest in enumerate(lengths.tolist(), start=1):
        first = max(0, end - max(1, limit // longest))
        costs = least[first:end] + np.arange(end - first, 0, -1) * longest
        begin[end] = first + costs.argmin()
        least[end] = costs.min() + cost
    ends = [len(lengths)]
    while (start := int(begin[ends[-1]])) > 0:
        ends.append(start)
    return ends[::-1]


def micro_batch_size(training: Training, place: Place, *, longest: int, on_cpu: bool) -> int:
    """Examples in one forward pass of one rank; accumulation makes up its share of a step.

    For `Auto` the most that there can be.

    Args:
        training: What the run asks for.
        place: The rank.
        longest: Tokens of the longest example.
        on_cpu: Whether there is no accelerator.
    """
    share = ceil(training.global_batch_size / place.world_size)
    default = MAX_DEFAULT_MICRO_BATCH
    if on_cpu:
        default = min(default, max(1, MAX_DEFAULT_CPU_TOKENS // longest))
    wanted = training.micro_batch_size or default
    size = share if isinstance(wanted, str) else min(wanted, share)
    return max(1, size // place.micro_batch_divisor)


class Ahead:
    """Makes the batches of the next step in a thread while this one is computed, and sends them."""

    def __init__(self, batches: Batches, transfer: Transfer) -> None:
        self._batches, self._transfer = batches, transfer
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._next: tuple[int, Future[Sent]] | None = None

    def step(self, step: int) -> list[Batch]:
        """The batches of a step; ready at once where it follows the last one."""
        if self._next is None or self._next[0] != step:
            self._ask(step)
        assert self._next is not None
        sent = self._next[1].result()
        self._ask(step + 1)
        return self._transfer.receive(sent)

    def _ask(self, step: int) -> None:
        self._next = (step, self._pool.submit(self._made, step))

    def _made(self, step: int) -> Sent:
        return self._transfer.send(self._batches.step(step))


def whole_split(examples: Examples, *, limit: int | None, tokens: int) -> Iterator[Integers]:
    """The first examples of a split, in batches of similar length.

    Args:
        examples: Of the split.
        limit: How many of them; all where it is None.
        tokens: Most in a batch, padding included; one example is always allowed.
    """
    indices = np.arange(len(examples) if limit is None else min(limit, len(examples)))
    lengths = examples.lengths(indices)
    by_length = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(indices):
        longest = lengths[by_length[start : start + MAX_DEFAULT_MICRO_BATCH]]
        fits = longest * np.arange(1, len(longest) + 1) <= tokens
        size = max(1, int(fits.sum()))
        yield indices[by_length[start : start + size]]
        start += size
