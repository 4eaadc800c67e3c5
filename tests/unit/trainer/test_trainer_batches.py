"""What a step is made of does not depend on the number of ranks, and is found without replay."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from troika_api.v1alpha1.training import Training
from troika_trainer.batch import Batch, Integers
from troika_trainer.batches import Ahead, Batches, Order, micro_batch_size, whole_split
from troika_trainer.errors import ConfigError
from troika_trainer.place import Place, threads_for


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
        alone = ids(Batches(Numbers(37), order, place=Place(), micro=8).step(step))
        places = [Place(rank=rank, world_size=ranks) for rank in range(ranks)]
        shared = [
            ids(Batches(Numbers(37), order, place=place, micro=2).step(step)) for place in places
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


def test_epochs_and_steps_convert() -> None:
    order = Order(size=10, batch=4, seed=3)
    assert order.epoch(5) == 2.0
    assert [order.last_step_of(epoch) for epoch in (1, 2)] == [3, 5]


def test_a_rank_shares_micro_batches_by_length() -> None:
    order = Order(size=90, batch=32, seed=1)
    batches = Batches(Numbers(90), order, place=Place(), micro=8).step(1)
    longest = [int((1 + batch.labels % 9).max()) for batch in batches]
    shortest = [int((1 + batch.labels % 9).min()) for batch in batches]
    assert all(high <= low for high, low in zip(longest[:-1], shortest[1:], strict=True))
    assert all(a <= b for a, b in pairwise(longest))


def test_more_ranks_than_examples_in_a_step_is_refused() -> None:
    order = Order(size=100, batch=4, seed=1)
    with pytest.raises(ConfigError, match=r"globalBatchSize 4 is less than the 5 ranks"):
        Batches(Numbers(100), order, place=Place(world_size=5), micro=1)


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
    assert micro_batch_size(Training(steps=1, **training), place) == expected


def test_batches_made_ahead_are_those_made_on_demand() -> None:
    batches = Batches(Numbers(50), Order(50, 8, 1), place=Place(), micro=8)
    ahead = Ahead(batches)
    for step in (1, 2, 3, 10, 11, 2):
        assert ids(ahead.step(step)) == ids(batches.step(step))


def test_a_whole_split_is_covered_once_in_batches_of_similar_length() -> None:
    parts = list(whole_split(Numbers(23), limit=None, batch=5))
    assert sorted(np.concatenate(parts).tolist()) == list(range(23))
    assert [len(part) for part in parts] == [5, 5, 5, 5, 3]
    assert len(np.concatenate(list(whole_split(Numbers(23), limit=7, batch=5)))) == 7


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
