"""LoRA and Frozen on tasks of every kind of input: they learn, and leave alone what is not theirs.

The models are fresh and the runs last a few steps, so what is asked of the loss is that it falls.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    YolosForObjectDetection,
)

from support.real_data import head, real_data
from support.senses import chosen, detection_model, image_model, run_of, sound_model, training
from support.tiny_models import causal_model, encoder_decoder, read_rows
from support.tiny_tasks import tiny_model, write_rows
from support.trainer_runs import Recorder, merged, train_here
from troika_trainer.errors import ConfigError

pytestmark = pytest.mark.slow

Weights = dict[str, torch.Tensor]

TRAIN, HELD_OUT = 96, 24
"""Rows: six steps an epoch."""
ALL_LINEAR = ["all-linear"]


def detector(folder: Path) -> Path:
    """The body alone: the head is for other classes."""
    YolosForObjectDetection.from_pretrained(detection_model(folder)).vit.save_pretrained(folder)
    return folder


def encoder(*path: str) -> Callable[[Path], Path]:
    """A BERT of one layer that has read what the rows of a set have in them."""

    def make(folder: Path) -> Path:
        rows = read_rows(real_data(path[0]).joinpath(*path) / "train.jsonl")[:TRAIN]
        return tiny_model(folder, map(json.dumps, rows), num_hidden_layers=1)

    return make


def talker(folder: Path) -> Path:
    rows = read_rows(real_data("preference") / "preference" / "train.jsonl")[:TRAIN]
    return causal_model(folder, [json.dumps(row) for row in rows], vocabulary=400)


def translator(folder: Path) -> Path:
    rows = read_rows(real_data("translation") / "translation" / "de" / "train.jsonl")[:TRAIN]
    texts = [text for row in rows for text in (row["source"], row["target"])]
    return encoder_decoder(folder, texts, vocabulary=400)


def lines(*path: str, **more: Any) -> Callable[[Path], dict[str, Any]]:
    """The first rows of a set that is one JSONL file a split."""

    def make(folder: Path) -> dict[str, Any]:
        source = real_data(path[0]).joinpath(*path)
        found = {
            split: {"uri": str(head(source / f"{split}.jsonl", folder / f"{split}.jsonl", rows))}
            for split, rows in (("train", TRAIN), ("validation", HELD_OUT))
        }
        return {**found, "maxLength": 64, **more}

    return make


def lengths(folder: Path) -> dict[str, Any]:
    """A name, and as a number how many letters it has."""
    made = lines("translation", "de")(folder)
    for split in ("train", "validation"):
        path = folder / f"{split}.jsonl"
        names = [row["source"] for row in read_rows(path)]
        write_rows(path, ({"text": name, "label": len(name)} for name in names))
    return made


def files(name: str, **more: Any) -> Callable[[Path], dict[str, Any]]:
    """The first rows of a set of files with a list of them; their labels are `label`."""

    def make(folder: Path) -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        found = {
            split: {"uri": chosen(real_data(name) / name / split, folder / f"{split}.jsonl", dict)}
            for split in ("train", "validation")
        }
        for split, rows in (("train", TRAIN), ("validation", HELD_OUT)):
            path = folder / f"{split}.jsonl"
            parts = read_rows(path)
            # Spread over the list, which may be sorted by class.
            kept = parts[:: len(parts) // rows][:rows]
            path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        return {**found, **more}

    return make


def ids() -> torch.Tensor:
    return torch.arange(10, 34).reshape(2, 12)


def words() -> dict[str, torch.Tensor]:
    return {"input_ids": ids()}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@dataclass(frozen=True)
class Kind:
    """A task, and how its models are made, fed and loaded."""

    task: str
    start: Callable[[Path], Path]
    data: Callable[[Path], dict[str, Any]]
    auto: Any
    """What loads its models."""
    inputs: Callable[[], dict[str, torch.Tensor]] = words
    """Anything that its models take."""
    targets: list[str] | None = None
    """Where the adapter goes; None where peft knows it of the architecture."""
    has_head: bool = True
    """Whether there is more above the body than its output over the vocabulary."""


KINDS = [
    Kind(
        "TokenClassification",
        encoder("ner"),
        lines("ner"),
        AutoModelForTokenClassification,
    ),
    Kind(
        "Seq2Seq",
        translator,
        lines("translation", "de"),
        AutoModelForSeq2SeqLM,
        lambda: {"input_ids": ids(), "decoder_input_ids": ids()},
        has_head=False,
    ),
    Kind(
        "Chat",
        talker,
        lines("instructions", "prompt_completion"),
        AutoModelForCausalLM,
        has_head=False,
    ),
    Kind(
        "Preference",
        talker,
        lines("preference"),
        AutoModelForCausalLM,
        has_head=False,
    ),
    Kind(
        "QuestionAnswering",
        encoder("questions"),
        lines("questions", maxLength=128),
        AutoModelForQuestionAnswering,
    ),
    Kind(
        "Regression",
        encoder("translation", "de"),
        lengths,
        AutoModelForSequenceClassification,
    ),
    Kind(
        "Ranking",
        encoder("ranking"),
        lines("ranking"),
        AutoModelForSequenceClassification,
    ),
    Kind(
        "ImageClassification",
        image_model,
        files("digits", columns={"image": "file_name"}),
        AutoModelForImageClassification,
        lambda: {"pixel_values": noise(2, 3, 16, 16)},
        ALL_LINEAR,
    ),
    Kind(
        "AudioClassification",
        sound_model,
        files("speech", columns={"audio": "file_name"}, maxSeconds=1.0),
        AutoModelForAudioClassification,
        lambda: {"input_values": noise(2, 8000)},
        ALL_LINEAR,
    ),
    Kind(
        "ObjectDetection",
        detector,
        files("boxes", columns={"image": "file_name"}),
        AutoModelForObjectDetection,
        lambda: {"pixel_values": noise(2, 3, 48, 48)},
        ALL_LINEAR,
    ),
    Kind(
        "SpeechRecognition",
        sound_model,
        files("speech", columns={"audio": "file_name"}),
        AutoModelForCTC,
        lambda: {"input_values": noise(2, 8000)},
        ALL_LINEAR,
    ),
]


def of_kinds(kinds: list[Kind]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.task)


def adapt(kind: Kind, folder: Path, start: Path, **method: Any) -> Recorder:
    """Three epochs on few rows."""
    run = run_of(
        folder,
        kind="FinetuneJob",
        task=kind.task,
        model={"path": str(start)},
        data=kind.data(folder),
        method=method,
        training=training(epochs=3, rate=0.01),
    )
    if kind.task == "Seq2Seq":
        run = merged(run, {"evaluation": {"maxNewTokens": 4}})
    return train_here(run)


def falls(recorder: Recorder) -> bool:
    third = len(recorder.losses) // 3
    assert third >= 6
    return sum(recorder.losses[-third:]) < sum(recorder.losses[:third])


@torch.no_grad()
def logits(kind: Kind, model: Any) -> torch.Tensor:
    made = model.eval()(**kind.inputs())
    return made.logits if "logits" in made else torch.stack([made.start_logits, made.end_logits])


def whole(kind: Kind, exported: Path) -> PreTrainedModel:
    """What a run left behind, which must be all of a model and nothing else."""
    model, info = kind.auto.from_pretrained(exported, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    found: PreTrainedModel = model
    return found


def started(kind: Kind, start: Path, exported: Path) -> tuple[PreTrainedModel, Weights, set[str]]:
    """The model as it was before: it, the weights that it had, the names of those drawn for it."""
    model, info = kind.auto.from_pretrained(
        start, config=AutoConfig.from_pretrained(exported), output_loading_info=True
    )
    drawn = set(info["missing_keys"])
    weights = model.state_dict()
    return model, {name: weights[name] for name in weights.keys() - drawn}, drawn


@of_kinds(KINDS)
def test_an_adapter_learns_and_is_the_same_model_beside_its_base_and_merged_into_it(
    tmp_path: Path, kind: Kind
) -> None:
    start = kind.start(tmp_path / "start")
    lora = {"type": "LoRA", "rank": 4, **({"targets": kind.targets} if kind.targets else {})}
    assert falls(adapt(kind, tmp_path / "beside", start, **lora))
    adapt(kind, tmp_path / "merged", start, **lora, merge=True)

    # Beside its base: there is nothing in the file but the adapter and the head.
    exported = tmp_path / "beside" / "model"
    assert not (exported / "model.safetensors").exists()
    trained = load_file(exported / "adapter_model.safetensors")
    base, known, drawn = started(kind, start, exported)
    adapted = {
        name.split(".lora_A")[0].removeprefix("base_model.model.") + ".weight"
        for name in trained
        if "lora_A" in name
    }
    assert adapted
    assert adapted <= known.keys()
    others = {name.removeprefix("base_model.model.") for name in trained if "lora_" not in name}
    assert others == drawn
    beside = logits(kind, PeftModel.from_pretrained(base, exported))

    # Merged: the same function, and what was not adapted is what it was, bit for bit.
    after = whole(kind, tmp_path / "merged" / "model")
    torch.testing.assert_close(logits(kind, after), beside, atol=1e-4, rtol=1e-4)
    weights = after.state_dict()
    for name, weight in known.items():
        assert torch.equal(weights[name], weight) is (name not in adapted), name


@of_kinds([kind for kind in KINDS if kind.has_head])
def test_frozen_trains_a_head_and_leaves_the_body_bit_for_bit(tmp_path: Path, kind: Kind) -> None:
    start = kind.start(tmp_path / "start")
    assert falls(adapt(kind, tmp_path / "frozen", start, type="Frozen"))
    exported = tmp_path / "frozen" / "model"
    _, known, drawn = started(kind, start, exported)
    weights = whole(kind, exported).state_dict()
    assert known.keys() | drawn == weights.keys()
    assert all(torch.equal(weights[name], weight) for name, weight in known.items())


@of_kinds([kind for kind in KINDS if not kind.has_head])
def test_frozen_is_refused_where_only_the_vocabulary_is_above_the_body(
    tmp_path: Path, kind: Kind
) -> None:
    model = "T5ForConditionalGeneration" if kind.task == "Seq2Seq" else "GPT2LMHeadModel"
    with pytest.raises(ConfigError, match=f"{model} has none") as refused:
        adapt(kind, tmp_path / "frozen", kind.start(tmp_path / "start"), type="Frozen")
    assert refused.value.remedy == "use method LoRA or Full"
