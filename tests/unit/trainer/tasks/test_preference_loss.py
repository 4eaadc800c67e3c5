from math import exp, log

import pytest
import torch

from troika_trainer.tasks.preference import preference_loss, rewards

POLICY = torch.tensor([[-10.0, -14.0], [-8.0, -7.0]])
REFERENCE = torch.tensor([[-11.0, -13.0], [-8.0, -7.5]])


def minus_log_sigmoid(x: float) -> float:
    return log(1.0 + exp(-x))


def test_rewards_are_what_the_model_has_moved() -> None:
    assert rewards(POLICY, REFERENCE, 0.5).tolist() == [[0.5, -0.5], [0.0, 0.25]]


def test_the_loss_by_hand() -> None:
    # Margins: 0.5 * ((-10 + 11) - (-14 + 13)) = 1 and 0.5 * (0 - 0.5) = -0.25.
    loss = preference_loss(rewards(POLICY, REFERENCE, 0.5), smoothing=0.0)
    assert float(loss) == pytest.approx(minus_log_sigmoid(1.0) + minus_log_sigmoid(-0.25), rel=1e-6)


def test_smoothing_by_hand() -> None:
    loss = preference_loss(rewards(POLICY, REFERENCE, 0.5)[:1], smoothing=0.1)
    expected = 0.9 * minus_log_sigmoid(1.0) + 0.1 * minus_log_sigmoid(-1.0)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_the_start_costs_log_2() -> None:
    loss = preference_loss(rewards(REFERENCE, REFERENCE, 0.1), smoothing=0.0)
    assert float(loss) == pytest.approx(2 * log(2.0))
