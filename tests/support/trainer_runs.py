"""Tiny runs for the tests of the trainer: real text, small models, seconds."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typing_extensions import override

from troika_api.v1alpha1.run import RUN
from troika_trainer.errors import Ending
from troika_trainer.place import Place
from troika_trainer.session import train
from troika_trainer.shutdown import StopSignal
from troika_trainer.telemetry import StepReport, Telemetry

LICENSE = Path(__file__).parents[2] / "LICENSE"
"""The text to learn from: 11 kB of English that every checkout has and nobody edits."""

TINY_BERT = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TINY_GPT = {
    "model_type": "gpt2",
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 32,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
GOOD = ("a fine and moving film", "bright , warm and very funny", "I loved every minute of it")
BAD = ("a dull and empty film", "slow , cold and never funny", "I hated every minute of it")


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A nested dict with some of its leaves changed; None removes a key."""
    result = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


def calm() -> None:
    """For who reports that work goes on: nobody has to know."""


def pretrain_run(folder: Path, **changes: Any) -> dict[str, Any]:
    """A MaskedLM run of 12 steps on the licence."""
    base = {
        "kind": "PretrainJob",
        "name": "tiny",
        "objective": "MaskedLM",
        "model": {"config": TINY_BERT},
        "tokenizer": {"train": {"vocabSize": 300, "lowercase": True}},
        "data": {
            "train": {"uri": str(LICENSE), "format": "Text"},
            "validation": {"fraction": 0.1},
            "sequenceLength": 32,
        },
        "training": {
            "steps": 12,
            "globalBatchSize": 8,
            "precision": "FP32",
            "optimizer": {"learningRate": 0.005},
        },
        "evaluation": {"everySteps": 6},
        "checkpoint": {"uri": str(folder / "checkpoints"), "interval": "5steps"},
        "output": {"uri": str(folder / "model")},
    }
    return merged(base, changes)


def finetune_run(folder: Path, *, model: Path, **changes: Any) -> dict[str, Any]:
    """A TextClassification run of 2 epochs on made-up reviews."""
    for split, rows in {"train": 48, "validation": 16, "test": 16}.items():
        write_reviews(folder / f"{split}.csv", rows)
    base = {
        "kind": "FinetuneJob",
        "name": "tiny-reviews",
        "task": "TextClassification",
        "model": {"path": str(model)},
        "data": {
            "train": {"uri": str(folder / "train.csv")},
            "validation": {"uri": str(folder / "validation.csv")},
            "test": {"uri": str(folder / "test.csv")},
        },
        "training": {
            "epochs": 2,
            "globalBatchSize": 8,
            "precision": "FP32",
            "optimizer": {"learningRate": 0.01},
        },
        "checkpoint": {"uri": str(folder / "checkpoints"), "interval": "1h"},
        "output": {"uri": str(folder / "model")},
    }
    return merged(base, changes)


def write_reviews(path: Path, rows: int) -> None:
    """A CSV of texts of many lengths and two classes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(rows):
            words, label = (GOOD, "good") if row % 2 else (BAD, "bad")
            writer.writerow([" ".join([words[row % 3]] * (1 + row % 4)), label])


def write_run(path: Path, run: dict[str, Any]) -> Path:
    """Put a run where the launcher can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run))
    return path


class Recorder(Telemetry):
    """Telemetry that keeps what it is told."""

    def __init__(self, run: dict[str, Any], place: Place) -> None:
        super().__init__(kind=run["kind"], name=run["name"], place=place)
        self.steps: list[StepReport] = []
        self.scores: list[dict[str, float]] = []
        self.after_step: Callable[[int], None] = lambda _step: None

    @override
    def step(self, done: StepReport) -> None:
        super().step(done)
        self.steps.append(done)
        self.after_step(done.step)

    @override
    def validated(self, scores: dict[str, float]) -> None:
        super().validated(scores)
        self.scores.append(scores)

    @property
    def losses(self) -> list[float]:
        """Training loss of every step."""
        return [step.loss for step in self.steps]


def train_here(
    run: dict[str, Any],
    *,
    place: Place | None = None,
    after_step: Callable[[int, StopSignal], None] = lambda _step, _stop: None,
) -> Recorder:
    """Train in this process, on one rank."""
    place = place or Place()
    telemetry = Recorder(run, place)
    stop = StopSignal(Ending(place))
    telemetry.after_step = lambda step: after_step(step, stop)
    train(RUN.validate_python(run), place, telemetry, stop)
    return telemetry
