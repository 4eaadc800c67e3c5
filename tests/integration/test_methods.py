"""LoRA, Frozen and early stopping: a tiny encoder learns to tell German names from French ones.

The rows are the German and the French column of the translation set, half of each, so one answer
for everything is right half the time.
"""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from support.real_data import real_data
from support.tiny_models import read_rows
from support.tiny_tasks import try_launch
from support.trainer_runs import Recorder, finetune_run, merged, pretrain_run, train_here
from troika_api.contract import ExitCode, FailureClass
from troika_trainer.errors import TerminatedError
from troika_trainer.shutdown import StopSignal

pytestmark = pytest.mark.slow

WIDER = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.15}
"""Wide enough at the start for the first token to see the others without a long pretraining."""

ROWS = {"train": 1200, "validation": 100, "test": 300}
"""Of each language."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    run = pretrain_run(
        folder,
        model={"config": WIDER},
        tokenizer={"train": {"vocabSize": 1000}},
        data={"train": {"uri": str(languages(folder)["train"]), "format": "Auto"}},
        training={"steps": 60, "globalBatchSize": 32, "optimizer": {"learningRate": 0.002}},
    )
    train_here(run)
    return folder / "model"


def languages(folder: Path) -> dict[str, Path]:
    """A CSV for every split: a name, and the language that it is in."""
    source, files = real_data("translation") / "translation", {}
    for split, number in ROWS.items():
        files[split] = folder / f"real-{split}.csv"
        files[split].parent.mkdir(parents=True, exist_ok=True)
        with files[split].open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for language in ("de", "fr"):
                rows = read_rows(source / language / f"{split}.jsonl")[:number]
                writer.writerows([row["target"], language] for row in rows)
    return files


def telling(folder: Path, encoder: Path, **changes: Any) -> dict[str, Any]:
    """A run of two epochs on the names."""
    made = {split: {"uri": str(file)} for split, file in languages(folder).items()}
    base = finetune_run(
        folder,
        model=encoder,
        data={**made, "maxLength": 32},
        training={"globalBatchSize": 32, "optimizer": {"learningRate": 0.002}},
    )
    return merged(base, changes)


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "model" / "report.json").read_text())
    print(folder.name, report["evaluation"]["metrics"])
    return report


def bytes_of(folder: Path) -> int:
    newest = max(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    return sum(file.stat().st_size for file in newest.iterdir())


def test_lora_learns_and_its_adapter_loads_with_peft(tmp_path: Path, encoder: Path) -> None:
    lora = {"method": {"type": "LoRA", "rank": 8}, "training": {"epochs": 4}}
    train_here(telling(tmp_path, encoder, **lora))
    report, model = report_of(tmp_path), tmp_path / "model"
    assert report["evaluation"]["metrics"]["accuracy"] > 0.6

    names = {file.name for file in model.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    assert "This is an adapter of" in (model / "README.md").read_text()
    assert bytes_of(tmp_path / "checkpoints") < (encoder / "model.safetensors").stat().st_size / 2

    base = AutoModelForSequenceClassification.from_pretrained(
        encoder, config=AutoConfig.from_pretrained(model)
    )
    loaded = PeftModel.from_pretrained(base, model).eval()
    assert accuracy(loaded, model, tmp_path) == pytest.approx(
        report["evaluation"]["metrics"]["accuracy"], abs=0.01
    )


def accuracy(model: Any, folder: Path, data: Path) -> float:
    """Measured with nothing of ours."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with (data / "real-test.csv").open(newline="") as file:
        texts, names = zip(*list(csv.reader(file))[1:], strict=True)
    asked = tokenizer(
        list(texts), padding=True, truncation=True, max_length=32, return_tensors="pt"
    )
    with torch.no_grad():
        found = model(**asked).logits.argmax(-1).tolist()
    labels = model.config.id2label
    right = sum(labels[index] == name for index, name in zip(found, names, strict=True))
    return float(right / len(names))


def test_a_merged_adapter_is_a_whole_model(tmp_path: Path, encoder: Path) -> None:
    run = telling(
        tmp_path,
        encoder,
        method={"type": "LoRA", "merge": True, "targets": ["all-linear"]},
        training={"epochs": None, "steps": 20},
    )
    train_here(run)
    report, model = report_of(tmp_path), tmp_path / "model"
    assert not (model / "adapter_config.json").exists()
    loaded, info = AutoModelForSequenceClassification.from_pretrained(
        model, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert accuracy(loaded.eval(), model, tmp_path) == pytest.approx(
        report["evaluation"]["metrics"]["accuracy"], abs=0.01
    )


def test_frozen_leaves_the_body_as_it_was(tmp_path: Path, encoder: Path) -> None:
    rate = {"optimizer": {"learningRate": 0.01}}
    run = telling(
        tmp_path,
        encoder,
        method={"type": "Frozen"},
        loss={"classWeighting": "Balanced", "labelSmoothing": 0.05},
        training={"dropout": 0.1, **rate},
    )
    train_here(run)
    metrics = report_of(tmp_path)["evaluation"]["metrics"]
    assert metrics["accuracy"] > 0.55  # one class for everything gives 0.5
    after = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    before = AutoModelForMaskedLM.from_pretrained(encoder).bert.state_dict()
    assert after.config.hidden_dropout_prob == 0.1
    for name, weight in after.bert.named_parameters():
        if "pooler" not in name:
            assert torch.equal(weight, before[name]), name


def test_lora_resumes_where_it_stopped(tmp_path: Path, encoder: Path) -> None:
    """The losses after the resume are those of the run that nobody stopped."""

    def stop_at_five(step: int, stop: StopSignal) -> None:
        if step == 5:
            stop.requested = True

    short = {"method": {"type": "LoRA"}, "training": {"epochs": None, "steps": 10}}
    whole = train_here(telling(tmp_path / "whole", encoder, **short))
    run = telling(tmp_path / "stopped", encoder, **short)
    with pytest.raises(TerminatedError):
        train_here(run, after_step=stop_at_five)
    rest = train_here(run)
    assert rest.steps[0].step > 5
    assert rest.losses == whole.losses[-len(rest.losses) :]


def test_early_stopping_ends_the_run_and_keeps_the_best(tmp_path: Path, encoder: Path) -> None:
    run = finetune_run(
        tmp_path,
        model=encoder,
        evaluation={"patience": 2, "bestBy": "f1"},
        training={"epochs": 30, "globalBatchSize": 16},
    )
    first: Recorder = train_here(run)
    report = report_of(tmp_path)
    scores = [entry["f1"] for entry in report["history"]]
    best = scores.index(max(scores))
    assert len(scores) == best + 3 < 30
    assert report["evaluation"]["bestStep"] == int(report["history"][best]["step"])
    assert first.steps[-1].step == report["history"][-1]["step"]

    again = train_here(run)  # such as after a pod that died while it exported
    assert again.steps == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_qlora_without_a_gpu_ends_a_run_before_anything_is_loaded(tmp_path: Path) -> None:
    """The model is an empty directory, the data one row: the run does not end for their sake."""
    (tmp_path / "none").mkdir()
    (tmp_path / "row.csv").write_text("text,label\nfine,good\n")
    data = {split: {"uri": f"{tmp_path}/row.csv"} for split in ("train", "validation", "test")}
    run = finetune_run(
        tmp_path, model=tmp_path / "none", data=data, method={"type": "QLoRA", "rank": 8}
    )
    done, word = try_launch(tmp_path, run)
    assert done.returncode == ExitCode.BAD_CONFIG
    assert (word.outcome, word.failure) == ("Failed", FailureClass.BAD_CONFIG)
    assert word.message.startswith("method.type QLoRA needs a CUDA GPU")
    assert word.message.endswith("which this container has not")
    assert word.remedy == "use method LoRA, or an image and nodes that have both"
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "checkpoints" / "cache").exists()
