import math

import pytest

from troika_api import contract
from troika_trainer.interval import LONGEST, SHORTEST, Interval


def test_as_the_run_says_whatever_it_costs() -> None:
    interval = Interval.of("1m30s", {})
    interval.learn(100.0)
    assert interval.seconds == 90.0
    assert Interval.of("500steps", {}).seconds == math.inf


@pytest.mark.parametrize(
    ("cost", "failure_every", "seconds"),
    [
        (0.5, 126 * 3600.0, 673.5),  # 64 GPUs
        (6.0, 7.9 * 3600.0, 584.2),  # 1,024 GPUs
        (0.001, 3600.0, SHORTEST),
        (60.0, 8000 * 3600.0, LONGEST),
    ],
)
def test_auto_follows_young_and_daly(cost: float, failure_every: float, seconds: float) -> None:
    interval = Interval.of("Auto", {contract.ENV_FAILURE_EVERY_SECONDS: str(failure_every)})
    assert interval.seconds == SHORTEST  # until the cost is known
    interval.learn(cost)
    assert interval.seconds == pytest.approx(seconds, abs=0.1)


def test_a_laptop_has_no_operator_to_ask() -> None:
    interval = Interval.of("Auto", {})
    interval.learn(0.01)
    assert interval.seconds == pytest.approx(math.sqrt(2 * 0.01 * 8000 * 3600))
