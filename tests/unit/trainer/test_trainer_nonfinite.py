"""Numbers that run away are told with their place, and with what was fine before."""

import torch

from troika_trainer import nonfinite
from troika_trainer.batch import Batch
from troika_trainer.distributed import Group
from troika_trainer.place import Place
from troika_trainer.telemetry import StepReport

GROUP = Group(Place(), torch.device("cpu"))
LAST = StepReport(
    step=6,
    epoch=0.5,
    loss=2.25,
    learning_rate=0.001,
    gradient_norm=1.5,
    tokens=64,
    samples=4,
    seconds=0.1,
    data_seconds=0.0,
    flops=0.0,
)


def batch(token: int) -> Batch:
    ids = torch.full((2, 4), token)
    return Batch({"input_ids": ids}, ids, weight=8, tokens=8, pairs=32)


def message(*, loss: float, norm: float, last: StepReport | None = LAST) -> str:
    error = nonfinite.explain(
        GROUP, [batch(1)], step=7, own_loss=loss, loss=loss, norm=norm, last=last
    )
    assert error.remedy
    return str(error)


def test_a_loss_that_runs_away_names_rank_and_batch() -> None:
    said = message(loss=float("nan"), norm=float("nan"))
    name = nonfinite.fingerprint([batch(1)])
    assert said == (
        f"step 7: loss nan, gradient norm nan; the loss ran away on rank 0 (batch {name}); step 6 "
        "was the last finite one: loss 2.25, gradient norm 1.5, learning rate 0.001. "
        "Nothing was applied"
    )


def test_a_gradient_that_runs_away_from_a_finite_loss_is_told_apart() -> None:
    said = message(loss=2.0, norm=float("inf"))
    assert "step 7: loss 2.0, gradient norm inf; the losses of all ranks are finite" in said
    assert f"(batches {nonfinite.fingerprint([batch(1)])})" in said


def test_the_first_step_of_an_attempt_has_nothing_before_it() -> None:
    assert "this attempt made no step before it" in message(loss=1.0, norm=1e39 * 1e300, last=None)


def test_a_batch_has_one_name_and_another_has_another() -> None:
    assert nonfinite.fingerprint([batch(1)]) == nonfinite.fingerprint([batch(1)])
    assert nonfinite.fingerprint([batch(1)]) != nonfinite.fingerprint([batch(2)])
