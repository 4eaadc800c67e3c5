"""Numbers that run away are told with their place, and with what was fine before."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from typing_extensions import override

from troika_api.v1alpha1.training import Training
from troika_trainer import nonfinite
from troika_trainer.batch import Batch
from troika_trainer.curve import Point
from troika_trainer.distributed import Group
from troika_trainer.place import Place
from troika_trainer.sharding import Sharded
from troika_trainer.strategy import Strategy
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


def message(
    *, loss: float, norm: float, fine: bool = True, last: StepReport | Point | None = LAST
) -> str:
    error = nonfinite.explain(
        GROUP,
        [batch(1)],
        step=7,
        own_loss=loss,
        own_gradient=lambda: fine,
        loss=loss,
        norm=norm,
        last=last,
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


def test_a_gradient_that_runs_away_names_its_rank_where_that_is_known() -> None:
    name = nonfinite.fingerprint([batch(1)])
    said = message(loss=2.0, norm=float("nan"), fine=False)
    assert f"; the gradient of a finite loss ran away on rank 0 (batch {name}); " in said


def test_the_first_step_of_a_run_has_nothing_before_it() -> None:
    said = message(loss=1.0, norm=1e39 * 1e300, last=None)
    assert "; this attempt made no step before it. Nothing" in said


def test_the_first_step_after_a_resume_has_the_end_of_the_curve_before_it() -> None:
    said = message(loss=float("nan"), norm=1.0, last=Point(6, 2.25, 0.001, 1.5, 1e3))
    assert (
        "; this attempt made no step before it; an earlier one's curve ends at step 6: loss 2.25, "
        "gradient norm 1.5, learning rate 0.001. Nothing was applied" in said
    )


class Line(nn.Linear):
    """Has no layers, and says so as models of transformers do."""

    _no_split_modules = None


class Root(nn.Module):
    """The square root of numbers: finite at zero, where its gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Line(4, 1, bias=False)

    @override
    def forward(self, batch: Batch) -> tuple[torch.Tensor, None]:
        loss: torch.Tensor = self.model(batch.inputs["input_ids"].float()).abs().sqrt().sum()
        return loss, None


@pytest.fixture
def gloo() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("gloo")
@pytest.mark.parametrize("sharding", [None, "FSDP"])
def test_a_rank_sees_which_gradient_is_its_own(sharding: str | None) -> None:
    """Of sharded weights too, whose gradients are summed over the ranks before anybody has them."""
    objective: Any = Root()
    training = Training.model_validate({"steps": 1, "sharding": "FSDP", "precision": "FP32"})
    strategy = Sharded(objective, GROUP, training) if sharding else Strategy(objective, GROUP)

    def is_finite(*tokens: int) -> bool:
        batches = [batch(token) for token in tokens]
        return nonfinite.own_gradient_is_finite(strategy, batches, contextlib.nullcontext)

    assert is_finite(1, 2)
    assert not is_finite(1, 0, 2)
    assert is_finite(3)


def test_a_batch_has_one_name_and_another_has_another() -> None:
    assert nonfinite.fingerprint([batch(1)]) == nonfinite.fingerprint([batch(1)])
    assert nonfinite.fingerprint([batch(1)]) != nonfinite.fingerprint([batch(2)])
