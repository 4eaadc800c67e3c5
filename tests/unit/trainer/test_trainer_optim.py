"""The learning rate over the run, the schedule of evaluation and saving, and the gradient."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support.trainer_runs import finetune_run, pretrain_run
from troika_api.v1alpha1.run import RUN
from troika_trainer.batches import Order
from troika_trainer.optim import build_optimizer, gradient_norm, learning_rate, scale_and_clip
from troika_trainer.schedule import Schedule


def rates(tmp_path: Path, **schedule: Any) -> list[float]:
    training = {"optimizer": {"learningRate": 1.0}, "schedule": schedule}
    run = RUN.validate_python(pretrain_run(tmp_path, training=training))
    return [learning_rate(step, total=10, run=run) for step in range(1, 11)]


def test_the_rate_rises_in_a_line_to_its_peak(tmp_path: Path) -> None:
    found = rates(tmp_path, type="Constant", warmupRatio=0.4)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1])


def test_a_linear_schedule_falls_and_its_last_step_still_learns(tmp_path: Path) -> None:
    found = rates(tmp_path, type="Linear", warmupRatio=0.0)
    assert found == pytest.approx([1 - step / 11 for step in range(1, 11)])


def test_a_cosine_schedule_ends_near_its_final_ratio(tmp_path: Path) -> None:
    found = rates(tmp_path, type="Cosine", warmupRatio=0.1, finalRatio=0.1)
    assert found[0] == 1.0
    assert sorted(found, reverse=True) == found
    assert 0.1 < found[-1] < 0.15


def test_the_default_rate_is_that_of_the_kind(tmp_path: Path) -> None:
    schedule = {"schedule": {"type": "Constant", "warmupRatio": 0.0}, "optimizer": None}
    pretrain = RUN.validate_python(pretrain_run(tmp_path, training=schedule))
    finetune = RUN.validate_python(finetune_run(tmp_path, model=tmp_path, training=schedule))
    assert learning_rate(1, total=10, run=pretrain) == 5e-4
    assert learning_rate(1, total=10, run=finetune) == 5e-5


@pytest.mark.parametrize(
    ("method", "rate"), [("Full", 2.5e-6), ("LoRA", 1e-5), ("QLoRA", 1e-5), ("Frozen", 5e-5)]
)
def test_preferences_are_learnt_at_a_rate_of_their_own(
    tmp_path: Path, method: str, rate: float
) -> None:
    """Common recipes: 5e-7 to 5e-6 for all weights, 5e-6 to 5e-5 for adapters."""
    schedule = {"schedule": {"type": "Constant", "warmupRatio": 0.0}, "optimizer": None}
    run = finetune_run(tmp_path, model=tmp_path, training=schedule)
    run = {**run, "task": "Preference", "method": {"type": method}}
    found = learning_rate(1, total=10, run=RUN.validate_python(run))
    assert found == pytest.approx(rate)


@pytest.mark.parametrize(
    ("length", "total"),
    [({"steps": 7}, 7), ({"steps": None, "tokens": 1025}, 5), ({"steps": None, "epochs": 1.5}, 15)],
)
def test_the_length_in_steps(tmp_path: Path, length: dict[str, Any], total: int) -> None:
    run = RUN.validate_python(pretrain_run(tmp_path, training=length))
    assert Schedule.of(run, Order(80, 8, 17), tokens_per_example=32.0).total == total


def test_pretraining_is_measured_ten_times_from_step_0_to_the_last(tmp_path: Path) -> None:
    changes = {"training": {"steps": 95}, "evaluation": {"everySteps": None}}
    run = RUN.validate_python(pretrain_run(tmp_path, **changes))
    schedule = Schedule.of(run, Order(80, 8, 17), tokens_per_example=32.0)
    assert sorted(schedule.evaluate_at) == [*range(0, 95, 10), 95]


def test_finetuning_is_measured_after_every_epoch(tmp_path: Path) -> None:
    run = RUN.validate_python(finetune_run(tmp_path, model=tmp_path, training={"epochs": 2.5}))
    schedule = Schedule.of(run, Order(20, 8, 17), tokens_per_example=5.0)
    assert (schedule.total, sorted(schedule.evaluate_at)) == (7, [3, 5, 7])


@pytest.mark.parametrize(("every", "steps"), [(2, [2, 4, 6, 7]), (7, [7]), (100, [7])])
def test_finetuning_is_measured_every_so_many_steps_and_at_the_end(
    tmp_path: Path, every: int, steps: list[int]
) -> None:
    changes = {"training": {"epochs": 2.5}, "evaluation": {"everySteps": every}}
    run = RUN.validate_python(finetune_run(tmp_path, model=tmp_path, **changes))
    schedule = Schedule.of(run, Order(20, 8, 17), tokens_per_example=5.0)
    assert (schedule.total, sorted(schedule.evaluate_at)) == (7, steps)


def test_checkpoints_by_steps_or_by_the_clock(tmp_path: Path) -> None:
    order = Order(80, 8, 17)
    by_steps = RUN.validate_python(pretrain_run(tmp_path, checkpoint={"interval": "5steps"}))
    schedule = Schedule.of(by_steps, order, tokens_per_example=1.0)
    assert [step for step in range(13) if schedule.saves_at(step)] == [5, 10, 12]
    by_clock = RUN.validate_python(pretrain_run(tmp_path, checkpoint={"interval": "1m30s"}))
    schedule = Schedule.of(by_clock, order, tokens_per_example=1.0)
    assert [step for step in range(13) if schedule.saves_at(step)] == [12]


def test_matrices_decay_and_vectors_do_not() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    spec = RUN.validate_python(pretrain_run(Path("/x"))).training.optimizer
    decayed, plain = build_optimizer(model, spec).param_groups
    assert [tuple(weight.shape) for weight in decayed["params"]] == [(4, 3)]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)


@pytest.mark.parametrize(("clip", "expected"), [(0.0, 2.5), (10.0, 2.5), (1.0, 1.0)])
def test_gradients_are_scaled_then_clipped(clip: float, expected: float) -> None:
    grads = [torch.tensor([3.0]), torch.tensor([4.0])]
    norm = float(gradient_norm(grads)) * 0.5
    scale_and_clip(grads, scale=0.5, norm=norm, clip=clip)
    assert float(gradient_norm(grads)) == pytest.approx(expected, rel=1e-5)
