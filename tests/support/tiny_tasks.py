"""Tiny models and short runs on real data, for the tests of the trainer's tasks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from troika_api import contract
from troika_api.contract import LastWord
from troika_api.v1alpha1.data import TokenizerTraining
from troika_api.v1alpha1.run import RUN
from troika_trainer.errors import Ending
from troika_trainer.place import Place
from troika_trainer.session import train
from troika_trainer.shutdown import StopSignal
from troika_trainer.telemetry import Telemetry
from troika_trainer.tokenizer import has_token_types, train_tokenizer

SIZE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 130,
    "initializer_range": 0.1,  # the usual 0.02 leaves untrained words alike for too long
}
SECONDS = 280

SPLITS = ("train", "validation", "test")
Rows = dict[str, list[dict[str, Any]]]
"""By split."""


def rows_of(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The first rows of a JSONL file."""
    with path.open() as lines:
        return [json.loads(line) for line in islice(lines, limit)]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write a JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def written(folder: Path, rows: Rows) -> dict[str, Path]:
    """Write a JSONL file for each split."""
    return {split: write_rows(folder / f"{split}.jsonl", part) for split, part in rows.items()}


def fast(rate: float = 0.003, **training: Any) -> dict[str, Any]:
    """Settings with which a tiny model learns in seconds."""
    return {"globalBatchSize": 32, "optimizer": {"learningRate": rate}, **training}


def tiny_tokenizer(
    texts: Iterable[str],
    *,
    algorithm: str = "WordPiece",
    token_types: bool = False,
    extra: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """A small vocabulary learnt from the texts of the test."""
    known, spec = list(texts), TokenizerTraining(vocab_size=2000)
    return train_tokenizer(
        lambda: known,
        spec,
        algorithm=algorithm,
        bidirectional=True,
        token_types=token_types,
        extra=extra,
    )


def tiny_model(
    folder: Path,
    texts: Iterable[str],
    *,
    model_type: str = "bert",
    **config: Any,
) -> Path:
    """A directory with an untrained encoder and its tokenizer, as `from_pretrained` reads it.

    Args:
        folder: Where it goes.
        texts: What the tokenizer is learnt from.
        model_type: The architecture.
        config: Fields of its configuration.
    """
    torch.manual_seed(17)
    tokenizer = tiny_tokenizer(texts, token_types=has_token_types({"model_type": model_type}))
    settings = {**SIZE, "pad_token_id": tokenizer.pad_token_id, **config}
    known = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **settings)
    model: PreTrainedModel = AutoModel.from_config(known)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    model: Path
    report: dict[str, Any]
    word: LastWord

    @property
    def scores(self) -> dict[str, float]:
        """The final scores, by name."""
        assert self.word.evaluation is not None
        return self.word.evaluation.metrics

    @property
    def text(self) -> str:
        """report.txt."""
        return (self.model / "report.txt").read_text()


def trained(folder: Path, run: dict[str, Any]) -> Outcome:
    """Train in this process, on one rank and one thread: on tiny models threads only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    place = Place(error_file=folder / "error.json")
    telemetry = Telemetry(kind=run["kind"], name=run["name"], place=place)
    try:
        train(RUN.validate_python(run), place, telemetry, StopSignal(Ending(place)))
    finally:
        torch.set_num_threads(threads)
    return _outcome(run, LastWord.model_validate_json((folder / "word.json").read_text()))


def _outcome(run: dict[str, Any], word: LastWord) -> Outcome:
    model = Path(run["output"]["uri"])
    return Outcome(model, json.loads((model / "report.json").read_text()), word)


def launched(folder: Path, run: dict[str, Any]) -> Outcome:
    """Train as a pod does: launcher, rank, last word.

    Raises:
        AssertionError: it did not succeed; the log is in the message.
    """
    done, word = try_launch(folder, run)
    assert done.returncode == 0, f"{word}\n{done.stdout}\n{done.stderr}"
    return _outcome(run, word)


def try_launch(
    folder: Path, run: dict[str, Any]
) -> tuple[subprocess.CompletedProcess[str], LastWord]:
    """Train as a pod does, and take whatever comes of it."""
    path, word = folder / "run.json", folder / "word.json"
    path.write_text(json.dumps(run))
    environment = {
        **os.environ,
        contract.ENV_TERMINATION_LOG: str(word),
        contract.ENV_METRICS_PORT: "0",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "troika_trainer.entry", str(path)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env=environment,
    )
    return done, LastWord.model_validate_json(word.read_text())


def finetune_run(
    folder: Path, *, task: str, model: Path, splits: dict[str, Path], **changes: Any
) -> dict[str, Any]:
    """A run of a few epochs with a rate for small models.

    Args:
        folder: Gets checkpoints and model.
        task: Name of the task.
        model: Directory to start from.
        splits: Files of train, validation and test.
        changes: Fields of data, training and evaluation to add or replace.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = {name: {"uri": str(path)} for name, path in splits.items()}
    training = {
        "epochs": 3,
        "globalBatchSize": 16,
        "precision": "FP32",
        "optimizer": {"learningRate": 0.001},
    }
    return {
        "kind": "FinetuneJob",
        "name": "tiny",
        "task": task,
        "model": {"path": str(model)},
        "data": {**data, "maxLength": 128, **changes.get("data", {})},
        "training": {**training, **changes.get("training", {})},
        "evaluation": changes.get("evaluation", {}),
        "checkpoint": {"uri": str(folder / "checkpoints"), "interval": "1h"},
        "output": {"uri": str(folder / "model")},
    }
