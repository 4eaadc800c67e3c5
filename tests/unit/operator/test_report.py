"""Numbers for readers: rounded, and never behind what was already said."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from support.views import at
from troika_api.contract import Evaluation, LastWord, SavedCheckpoint, Score, TrainerStatus
from troika_api.v1alpha1.status import Attempt, JobStatus, Progress
from troika_operator.report import duration, evaluation, merge, percent


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(0.0, "0%"), (0.0004, "0.0%"), (0.4531, "45.3%"), (0.99999, "99.9%"), (1.0, "100%")],
)
def test_percent(ratio: float, text: str) -> None:
    assert percent(ratio) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (44.6, "45s"),
        (60, "1m"),
        (125, "2m5s"),
        (3600, "1h"),
        (4350, "1h12m"),
        (276000, "3d4h"),
        (-1, "0s"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def attempt() -> Attempt:
    return Attempt(number=0, nodes=1, processes_per_node=1, started=at(0))


def test_numbers_are_rounded() -> None:
    status = JobStatus()
    said = TrainerStatus(
        step=1,
        total_steps=3,
        loss=1.23456789,
        tokens_per_second=1234.56,
        model_flops_utilization=0.412345,
        data_wait_ratio=0.01239,
        eta_seconds=12.3,
        epoch=0.123456,
    )
    merge(status, attempt(), said)
    assert status.progress is not None
    assert status.throughput is not None
    assert (status.progress.loss, status.progress.ratio) == (1.2346, 0.3333)
    assert status.progress.epoch == 0.123
    assert status.throughput.tokens_per_second == 1235
    assert status.throughput.model_flops_utilization == 0.4123
    assert status.throughput.data_wait_ratio == 0.012


def test_a_trainer_that_has_not_read_its_checkpoint_yet_does_not_turn_the_step_back() -> None:
    status = JobStatus(progress=Progress(step=57, loss=1.0, eta="5s", eta_seconds=5))
    merge(status, attempt(), TrainerStatus(step=0, stage="Loading"))
    assert status.progress == Progress(step=57, loss=1.0, stage="Loading")


def test_a_checkpoint_is_told_as_the_uri_of_the_spec() -> None:
    status = JobStatus()
    path = "/mnt/troika/models/ckpt/step-10"
    saved = SavedCheckpoint(step=10, time=at(1.5).timestamp(), path=path)
    merge(status, attempt(), TrainerStatus(step=12, checkpoint=saved))
    assert status.checkpoint is not None
    assert status.checkpoint.uri == "pvc://models/ckpt/step-10"
    assert status.checkpoint.time == at(1)


def test_of_many_classes_those_with_the_most_rows_stay_in_their_order() -> None:
    scores = [Score(name=f"c{i}", precision=1, recall=1, f1=1, support=i % 150) for i in range(150)]
    given = evaluation(Evaluation(split="test", classes=scores))
    assert len(given.classes) == 100
    assert [score.name for score in given.classes][:2] == ["c50", "c51"]


@pytest.mark.parametrize(
    "said",
    [
        {"step": 3, "loss": float("nan")},
        {"step": 3, "etaSeconds": float("inf"), "tokensPerSecond": float("inf")},
        {"step": 3, "etaSeconds": 1e300},
        {"modelFlopsUtilization": -0.1, "tokensPerSecond": 1.0},
        {"step": -1},
        {"step": 2**64},
        {"totalSteps": -5},
        {"firstStep": -1, "step": 1},
        {"epoch": -0.5},
        {"trainingSeconds": -1.0},
        {"trainingSeconds": float("nan")},
        {"lastProgress": float("nan")},
        {"checkpoint": {"step": 1, "time": 1.8e12, "path": "/mnt/troika/a"}},
        {"checkpoint": {"step": 1, "time": 1.8e9, "path": "/mnt/troika/" + "a" * 2000}},
    ],
    ids=lambda said: json.dumps(said)[:60],
)
def test_whatever_a_trainer_says_the_status_can_be_written(said: dict[str, Any]) -> None:
    status = JobStatus()
    try:
        known = TrainerStatus.model_validate_json(json.dumps(said))
    except ValidationError:
        return  # refused where it is read
    merge(status, attempt(), known)
    body = json.dumps(status.wire(), allow_nan=False)
    assert JobStatus.model_validate_json(body) == status


def test_a_number_that_is_not_finite_is_not_known() -> None:
    said = TrainerStatus.model_validate_json('{"step": 4, "loss": NaN, "etaSeconds": Infinity}')
    assert (said.step, said.loss, said.eta_seconds) == (4, None, None)
    word = LastWord(
        outcome="Succeeded",
        evaluation=Evaluation(split="test", metrics={"f1": 0.5, "loss": float("inf")}),
    )
    assert word.evaluation is not None
    assert word.evaluation.metrics == {"f1": 0.5}
    assert LastWord.model_validate_json(word.to_json()) == word


def test_more_scores_than_the_status_has_room_for_do_not_hold_the_job_up() -> None:
    many = Evaluation(split="test", metrics={f"score{i}": 0.1 for i in range(50)})
    assert len(evaluation(many).metrics) == 32
