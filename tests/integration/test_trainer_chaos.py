"""A few kills of `make chaos-trainer`, in every run of the tests."""

from pathlib import Path

import pytest

from chaos.killing import Chaos
from support.nursery import nursery


@pytest.mark.slow
def test_killed_at_random_moments_the_weights_are_the_same(tmp_path: Path) -> None:
    with nursery() as forked:
        chaos = Chaos(tmp_path, steps=60, save_every=5, nursery=forked, seed=17)
        outcome = chaos.run(kills=4)
    assert len(outcome.kills) == 4
    assert outcome.in_save > 0
    assert outcome.in_export > 0
    assert outcome.resumed > 0
    assert not outcome.lost
    assert outcome.equal
    assert outcome.history_equal
