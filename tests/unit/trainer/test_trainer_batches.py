"""What a step is made of does not depend on the number of ranks, and is found without replay."""

import os
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from troika_api.v1alpha1.training import Training
from troika_trainer.batch import Batch, Integers
from troika_trainer.batches import (
    WINDOW,
    Ahead,
    Batches,
    Order,
    cut,
    dealt,
    group_size,
    micro_batch_size,
    shared,
    whole_split,
)
from troika_trainer.errors import ConfigError
from troika_trainer.place import Place, cores, threads_for
from troika_trainer.transfer import Transfer


class Numbers:
    """Examples that are their own number; example i has 1 + i % 9 tokens."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def lengths(self, indices: Integers) -> Integers:
        return 1 + indices % 9

    def batch(self, indices: Integers, epochs: Integers) -> Batch:
        ids = torch.from_numpy(indices)
        return Batch(
            {"ids": ids + 1000 * torch.from_numpy(epochs)}, ids, len(ids), len(ids), len(ids)
        )


def ids(batches: list[Batch]) -> list[int]:
    return [int(number) for batch in batches for number in batch.inputs["ids"]]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
def test_the_ranks_together_have_the_same_examples_whatever_their_number(ranks: int) -> None:
    order = Order(size=37, batch=8, seed=17)
    for step in (1, 5, 9, 30):
        alone = ids(Batches(Numbers(37), order, place=Place(), limit=80).step(step))
        places = [Place(rank=rank, world_size=ranks) for rank in range(ranks)]
        shared = [
            ids(Batches(Numbers(37), order, place=place, limit=20).step(step)) for place in places
        ]
        assert all(shared), "every rank needs work, or its gradients would be missed"
        assert sorted(number for part in shared for number in part) == sorted(alone)


def test_every_epoch_has_each_example_once_even_where_steps_cross_its_end() -> None:
    order = Order(size=10, batch=4, seed=3)
    seen = [
        (int(epoch), int(index))
        for step in range(1, 6)
        for index, epoch in zip(*order.step(step), strict=True)
    ]
    assert sorted(seen) == [(epoch, index) for epoch in (0, 1) for index in range(10)]


def lengths(indices: Integers) -> Integers:
    return 5 + indices * 7919 % 211


SIZES = [(10, 4), (1000, 8), (997, 8), (7, 16), (64, 64), (5000, 4), (403, 96)]
"""Examples and examples in a step: epochs that end in a step and between two, of many windows and
of less than one."""


@pytest.mark.parametrize(("size", "batch"), SIZES)
def test_grouped_by_length_too_an_epoch_has_each_example_once(size: int, batch: int) -> None:
    order = Order(size, batch, 3, lengths)
    steps = -(-2 * size // batch)
    seen = [
        (int(epoch), int(index))
        for step in range(1, steps + 1)
        for index, epoch in zip(*order.step(step), strict=True)
    ]
    assert sorted(seen)[: 2 * size] == [(epoch, index) for epoch in (0, 1) for index in range(size)]
    before = [pair for step in range(1, order.last_step_of(1) + 1) for pair in _pairs(order, step)]
    assert {index for epoch, index in before if epoch == 0} == set(range(size))


def _pairs(order: Order, step: int) -> list[tuple[int, int]]:
    return [(int(epoch), int(index)) for index, epoch in zip(*order.step(step), strict=True)]


@pytest.mark.parametrize(("size", "batch"), SIZES)
def test_any_step_is_found_without_those_before_it(size: int, batch: int) -> None:
    walked = Order(size, batch, 3, lengths)
    steps = [walked.step(step) for step in range(1, 150)]
    for step in (149, 51, 50, 2, 100, 101, 1):
        again = Order(size, batch, 3, lengths).step(step)
        assert all((a == b).all() for a, b in zip(again, steps[step - 1], strict=True))


def test_a_step_of_a_grouped_order_has_examples_of_similar_length() -> None:
    plain, grouped = Order(20_000, 32, 3), Order(20_000, 32, 3, lengths)
    spread = [np.ptp(lengths(order.step(7)[0])) for order in (plain, grouped)]
    assert spread[0] > 150
    assert np.ptp(lengths(grouped.step(7)[0])) < 25
    large = Order(20_000, 96, 3, lengths)
    thirds = np.sort(lengths(large.step(7)[0])).reshape(3, 32)
    assert np.ptp(thirds, axis=1).max() < 25
    spreads = [np.ptp(lengths(large.step(step)[0])) for step in range(1, WINDOW + 1)]
    assert np.median(spreads) > 50, "a large step has examples of several lengths"
    means = [lengths(grouped.step(step)[0]).mean() for step in range(1, WINDOW + 1)]
    assert np.corrcoef(means, np.arange(WINDOW))[0, 1] < 0.5, "short and long steps take turns"


def test_the_examples_of_a_window_are_those_that_the_shuffle_puts_there() -> None:
    plain, grouped = Order(20_000, 32, 3), Order(20_000, 32, 3, lengths)
    for first in (1, WINDOW + 1):
        window = range(first, first + WINDOW)
        mine, theirs = (
            np.concatenate([order.step(step)[0] for step in window]) for order in (grouped, plain)
        )
        assert sorted(mine) == sorted(theirs)


def test_examples_of_one_length_stay_as_they_are_shuffled() -> None:
    plain, grouped = Order(500, 8, 3), Order(500, 8, 3, np.ones_like)
    assert all((grouped.step(s)[0] == plain.step(s)[0]).all() for s in range(1, 100))


@pytest.mark.parametrize(
    ("batch", "size"), [(1, 1), (8, 8), (32, 32), (64, 32), (96, 32), (100, 25), (37, 1), (48, 24)]
)
def test_a_large_step_has_several_groups(batch: int, size: int) -> None:
    assert group_size(batch) == size


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_grouped_examples_are_shared_by_any_number_of_ranks(ranks: int) -> None:
    order = Order(997, 12, 5, lengths)
    for step in (1, 60, 83, 84, 140):
        parts = []
        for rank in range(ranks):
            place = Place(rank=rank, world_size=ranks)
            again = Order(997, 12, 5, lengths)
            parts += ids(Batches(Numbers(997), again, place=place, limit=40).step(step))
        indices, epochs = order.step(step)
        assert sorted(parts) == sorted((indices + 1000 * epochs).tolist())


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_every_rank_has_as_many_micro_batches(ranks: int) -> None:
    order = Order(997, 37, 5)
    for step in range(1, 40):
        places = [Place(rank=rank, world_size=ranks) for rank in range(ranks)]
        made = [Batches(Numbers(997), order, place=place, limit=20).step(step) for place in places]
        assert len({len(batches) for batches in made}) == 1
        assert all(len(batch.labels) for batches in made for batch in batches)


@pytest.mark.parametrize(
    ("lengths", "limit", "cost", "ends"),
    [
        ([9], 100, 10, [1]),
        ([5, 5, 5, 5], 100, 10, [4]),
        ([5, 5, 5, 5], 10, 10, [2, 4]),
        ([5, 5, 5, 50], 1000, 10, [3, 4]),
        ([5, 5, 5, 50], 1000, 1000, [4]),
        ([1, 2, 100, 101], 1000, 3, [2, 4]),
        ([300, 300], 200, 10, [1, 2]),
    ],
    ids=["one", "alike", "limit", "outlier", "dear passes", "two kinds", "none fits"],
)
def test_micro_batches_are_cut_where_it_costs_least(
    lengths: list[int], limit: int, cost: int, ends: list[int]
) -> None:
    assert cut(np.array(lengths), limit=limit, cost=cost) == ends


def test_no_cut_is_cheaper_than_the_one_that_was_found() -> None:
    sample = np.sort(lengths(np.arange(10)))
    limit, cost = 700, 40

    def price(ends: list[int]) -> float:
        starts = [0, *ends[:-1]]
        parts = [(end - start) * sample[end - 1] for start, end in zip(starts, ends, strict=True)]
        return sum(parts) + cost * len(parts) if max(parts) <= limit else np.inf

    every = [
        [*inner, len(sample)]
        for count in range(len(sample))
        for inner in combinations(range(1, len(sample)), count)
    ]
    assert price(cut(sample, limit=limit, cost=cost)) == min(map(price, map(list, every)))


def test_epochs_and_steps_convert() -> None:
    order = Order(size=10, batch=4, seed=3)
    assert order.epoch(5) == 2.0
    assert [order.last_step_of(epoch) for epoch in (1, 2)] == [3, 5]


def test_a_rank_shares_micro_batches_by_length() -> None:
    order = Order(size=90, batch=32, seed=1)
    batches = Batches(Numbers(90), order, place=Place(), limit=72).step(1)
    longest = [int((1 + batch.labels % 9).max()) for batch in batches]
    shortest = [int((1 + batch.labels % 9).min()) for batch in batches]
    assert all(high <= low for high, low in zip(longest[:-1], shortest[1:], strict=True))
    assert all(a <= b for a, b in pairwise(longest))


def test_more_ranks_than_examples_in_a_step_is_refused() -> None:
    order = Order(size=100, batch=4, seed=1)
    with pytest.raises(ConfigError, match=r"globalBatchSize 4 is less than the 5 ranks"):
        Batches(Numbers(100), order, place=Place(world_size=5), limit=9)


@pytest.mark.parametrize(
    ("training", "place", "expected"),
    [
        ({"global_batch_size": 256}, Place(), 32),
        ({"global_batch_size": 16}, Place(world_size=3), 6),
        ({"global_batch_size": 256, "micro_batch_size": 64}, Place(), 64),
        ({"global_batch_size": 64, "micro_batch_size": 64}, Place(world_size=4), 16),
        ({"global_batch_size": 64}, Place(micro_batch_divisor=4), 8),
        ({"global_batch_size": 2}, Place(micro_batch_divisor=8), 1),
    ],
)
def test_the_micro_batch_fits_share_and_memory(
    training: dict[str, int], place: Place, expected: int
) -> None:
    settings = Training(steps=1, **training)
    assert micro_batch_size(settings, place, longest=128, on_cpu=True) == expected
    assert micro_batch_size(settings, place, longest=8192, on_cpu=False) == expected


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [(None, 128, 32), (None, 129, 31), (None, 512, 8), (None, 9000, 1), (64, 512, 64)],
)
def test_on_a_cpu_a_size_that_nobody_named_has_so_many_tokens(
    size: int | None, longest: int, expected: int
) -> None:
    settings = Training(steps=1, global_batch_size=64, micro_batch_size=size)
    assert micro_batch_size(settings, Place(), longest=longest, on_cpu=True) == expected
    divided = micro_batch_size(settings, Place(micro_batch_divisor=2), longest=longest, on_cpu=True)
    assert divided == max(1, expected // 2)


def test_batches_made_ahead_are_those_made_on_demand() -> None:
    batches = Batches(Numbers(50), Order(50, 8, 1), place=Place(), limit=80)
    ahead = Ahead(batches, Transfer(torch.device("cpu")))
    for step in (1, 2, 3, 10, 11, 2):
        assert ids(ahead.step(step)) == ids(batches.step(step))


def test_a_whole_split_is_covered_once_in_batches_of_similar_length() -> None:
    parts = list(whole_split(Numbers(71), limit=None, tokens=1000))
    assert sorted(np.concatenate(parts).tolist()) == list(range(71))
    assert [len(part) for part in parts] == [32, 32, 7]
    some = list(whole_split(Numbers(23), limit=7, tokens=1000))
    assert sorted(np.concatenate(some).tolist()) == list(range(7))


@pytest.mark.parametrize("tokens", [1, 9, 20, 36])
def test_batches_of_a_whole_split_have_only_so_many_tokens(tokens: int) -> None:
    numbers = Numbers(100)
    parts = list(whole_split(numbers, limit=None, tokens=tokens))
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    for part, after in pairwise(parts):
        lengths = numbers.lengths(part)
        assert len(part) == 1 or lengths.max() * len(part) <= tokens
        larger = numbers.lengths(after[:1]).max() * (len(part) + 1)
        assert larger > tokens or len(part) == 32, "another example would have had room"


@pytest.mark.parametrize(
    ("quota", "local", "sharing", "expected"),
    [
        ("max 100000", 1, 1, 8),
        ("max 100000", 1, 2, 4),
        ("max 100000", 2, 4, 2),
        ("400000 100000", 1, 1, 4),
        ("400000 100000", 2, 2, 2),
        ("50000 100000", 1, 1, 1),
        ("max 100000", 1, 16, 1),
    ],
)
def test_the_ranks_of_a_machine_share_its_cores(  # noqa: PLR0917
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quota: str,
    local: int,
    sharing: int,
    expected: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    path = tmp_path / "cpu.max"
    path.write_text(quota)
    place = Place(local_world_size=local)
    assert threads_for(place, sharing=sharing, quota=path) == expected
    no_cgroup = threads_for(place, sharing=sharing, quota=tmp_path / "none")
    assert no_cgroup == max(1, 8 // sharing)


@pytest.mark.parametrize(
    ("quota", "expected"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None)]
)
def test_the_limit_of_the_container_counts_not_the_cores_of_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, expected: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    path = tmp_path / "cpu.max"
    path.write_text(quota)
    assert cores(path) == (expected or 64)
    path.write_text("250000 100000")
    assert cores(path) == 2
    assert cores(tmp_path / "no-such-file") == 64


@pytest.mark.parametrize("samples", [5, 8, 13, 16])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("limit", [1, 30, 1000])
def test_the_ranks_do_equally_many_passes_and_nothing_is_left_out(
    samples: int, ranks: int, limit: int
) -> None:
    lengths = np.sort(1 + np.arange(samples) * 7919 % 20)
    shares = [
        dealt(lengths, place=Place(rank=rank, world_size=ranks), limit=limit)
        for rank in range(ranks)
    ]
    assert len({len(ends) for _, ends in shares}) == 1
    assert sorted(np.concatenate([mine for mine, _ in shares])) == list(range(samples))
    for mine, ends in shares:
        assert ends[-1] == len(mine)
        assert all(begin < end for begin, end in pairwise([0, *ends]))


@pytest.mark.parametrize(
    ("sizes", "ranks", "expected"),
    [([3, 2], 2, [3, 2]), ([3, 2], 3, [2, 2, 1]), ([4], 3, [1, 1, 2]), ([1, 1, 1], 2, [1, 1, 1])],
)
def test_packed_rows_are_taken_apart_until_each_rank_has_equally_many(
    sizes: list[int], ranks: int, expected: list[int]
) -> None:
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    found = shared(rows, ranks=ranks)
    assert sorted(map(len, found)) == sorted(expected)
    assert sorted(np.concatenate(found)) == list(range(sum(sizes)))
