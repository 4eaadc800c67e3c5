"""Order, shares and masks are functions of the seed and of nothing that happened before."""

import numpy as np
import pytest

from troika_trainer.randomness import draw, permute, uniform


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_a_permutation_reaches_every_index_once(size: int) -> None:
    places = permute(np.arange(size), size, 17, 0)
    assert sorted(places.tolist()) == list(range(size))


def test_a_permutation_is_another_in_each_epoch_and_for_each_seed() -> None:
    first = permute(np.arange(500), 500, 17, 0)
    assert (first != permute(np.arange(500), 500, 17, 1)).mean() > 0.9
    assert (first != permute(np.arange(500), 500, 18, 0)).mean() > 0.9


def test_one_index_is_permuted_as_it_is_among_many() -> None:
    many = permute(np.arange(300), 300, 5, 2)
    assert [int(permute(np.array([i]), 300, 5, 2)[0]) for i in range(300)] == many.tolist()


def test_a_permutation_leaves_no_pattern() -> None:
    places = permute(np.arange(10_000), 10_000, 17, 0).astype(float)
    assert abs(np.corrcoef(np.arange(10_000), places)[0, 1]) < 0.05
    assert abs(np.corrcoef(places[:-1], places[1:])[0, 1]) < 0.05


def test_uniform_draws_are_uniform_and_broadcast() -> None:
    values = uniform(17, 1, np.arange(200)[:, None], np.arange(500)[None, :])
    assert values.shape == (200, 500)
    assert values.min() >= 0.0
    assert values.max() < 1.0
    counts, _ = np.histogram(values, bins=10, range=(0, 1))
    assert np.allclose(counts, 10_000, rtol=0.05)


def test_draws_at_different_coordinates_are_unrelated() -> None:
    assert draw(1, 2) != draw(2, 1)
    assert len(set(draw(np.arange(1000), 7).tolist())) == 1000
