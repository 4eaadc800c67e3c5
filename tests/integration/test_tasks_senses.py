"""Each task on images and sound learns real data, is scored, and exports a usable model."""

import json
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoModelForCTC,
    AutoProcessor,
    ConvNextConfig,
    PretrainedConfig,
    ResNetConfig,
    pipeline,
)
from transformers.models.convnext.image_processing_pil_convnext import (
    ConvNextImageProcessorPil,
)

from data.packages import wheel
from support.real_data import real_data
from support.senses import (
    RATE,
    TINY_MAE,
    TINY_VIT,
    chosen,
    quick_detector,
    run_of,
    sound_model,
    training,
)
from support.tiny_models import read_rows
from support.tiny_tasks import write_rows
from support.trainer_runs import Recorder, train_here
from troika_trainer.detection import detection_report
from troika_trainer.tasks.object_detection import MAX_DETECTIONS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WORDS = ("yes", "no", "stop", "go")


@pytest.fixture(scope="module")
def data() -> Path:
    return real_data("digits", "boxes", "speech")


def splits(folder: Path) -> dict[str, dict[str, str]]:
    return {
        split: {"uri": str(folder / split / "metadata.jsonl")}
        for split in ("train", "validation", "test")
    }


def pretrained(
    folder: Path, config: dict[str, Any], column: str, lists: dict[str, dict[str, str]], **how: Any
) -> Recorder:
    """An encoder of images, from scratch."""
    data: dict[str, Any] = {split: {**rows, "column": column} for split, rows in lists.items()}
    return train_here(
        run_of(
            folder,
            kind="PretrainJob",
            objective="MaskedImage",
            model={"config": config},
            data={**data, "imageSize": 16},
            training=training(**how),
        )
    )


def report_of(
    folder: Path, task: str, *, model: Path, data: dict[str, Any], **how: Any
) -> dict[str, Any]:
    """What is said of a model that has learnt a task."""
    start = {"path": str(model)}
    fields = {"task": task, "model": start, "data": data, "training": training(**how)}
    train_here(run_of(folder, kind="FinetuneJob", **fields))
    report: dict[str, Any] = json.loads((folder / "model" / "report.json").read_text())
    assert (folder / "model" / "README.md").read_text().startswith("---")
    return report


@pytest.mark.parametrize("config", [TINY_VIT, TINY_MAE], ids=["simmim", "mae"])
def test_images_are_pretrained_from_scratch_and_the_encoder_learns_to_tell_digits(
    data: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    parts = splits(data / "digits")
    del parts["test"]
    encoder = pretrained(
        tmp_path / "encoder", config, "file_name", parts, epochs=2, globalBatchSize=32
    )
    losses = [scores["loss"] for scores in encoder.scores]
    assert losses[-1] < 0.8 * losses[0], losses

    report = report_of(
        tmp_path / "digits",
        "ImageClassification",
        model=tmp_path / "encoder" / "model",
        data={**splits(data / "digits"), "columns": {"image": "file_name"}},
        epochs=3,
    )
    # The most frequent of ten digits is right in one of ten cases.
    assert report["evaluation"]["metrics"]["accuracy"] > 0.4
    assert [score["name"] for score in report["report"]["classes"]] == list("0123456789")
    page = (tmp_path / "digits" / "model" / "report.html").read_text()
    assert report["worst"]
    assert page.count('src="data:image/png;base64,') == len(report["worst"])

    rows = (data / "digits" / "test" / "metadata.jsonl").read_text().splitlines()[:20]
    classify = pipeline("image-classification", str(tmp_path / "digits" / "model"))
    right = 0
    for row in map(json.loads, rows):
        image = Image.open(data / "digits" / "test" / row["file_name"])
        right += classify(image, top_k=1)[0]["label"] == str(row["label"])
    assert right > 6, "the exported model and processor know less than the report says"


def patches_of_photographs(folder: Path, side: int = 32) -> dict[str, Path]:
    """Squares of the two photographs that scikit-learn ships, an eighth of them held out."""
    found = []
    for name in ("china", "flower"):
        photograph = Image.open(wheel("scikit-learn", f"sklearn/datasets/images/{name}.jpg"))
        for top in range(0, photograph.height - side + 1, side):
            for left in range(0, photograph.width - side + 1, side):
                file = folder / f"{name}-{top}-{left}.png"
                photograph.crop((left, top, left + side, top + side)).save(file)
                found.append({"image": file.name})
    return {
        "train": write_rows(
            folder / "train.jsonl", (row for number, row in enumerate(found) if number % 8)
        ),
        "validation": write_rows(folder / "validation.jsonl", found[::8]),
    }


def test_photographs_are_pretrained_on(tmp_path: Path) -> None:
    files = patches_of_photographs(tmp_path)
    lists = {name: {"uri": str(file)} for name, file in files.items()}
    encoder = pretrained(tmp_path / "encoder", TINY_VIT, "image", lists, epochs=8)
    # Who paints every hidden pixel in the one colour that fits best; the loss is absolute.
    kept = [
        np.asarray(Image.open(tmp_path / row["image"]).resize((16, 16)), dtype=np.float32)
        for row in read_rows(files["validation"])
    ]
    pixels = np.stack(kept).reshape(-1, 3) / 127.5 - 1
    constant = np.abs(pixels - np.median(pixels, axis=0)).mean()
    assert encoder.scores[-1]["loss"] < 0.8 * constant


SMALL: list[PretrainedConfig] = [
    ConvNextConfig(num_stages=2, depths=[1, 1], hidden_sizes=[16, 32]),
    ResNetConfig(embedding_size=16, depths=[1, 1], hidden_sizes=[32, 64], layer_type="basic"),
]


@pytest.mark.parametrize("config", SMALL, ids=lambda config: config.model_type)
def test_convolutions_learn_from_images_that_their_processor_crops_by_itself(
    data: Path, tmp_path: Path, config: PretrainedConfig
) -> None:
    torch.manual_seed(5)
    build: Any = AutoModel.from_config
    build(config).save_pretrained(tmp_path / "fresh")
    ConvNextImageProcessorPil(size={"shortest_edge": 32}).save_pretrained(tmp_path / "fresh")
    digits = data / "digits"
    report = report_of(
        tmp_path / "digits",
        "ImageClassification",
        model=tmp_path / "fresh",
        data={
            split: {"uri": chosen(digits / split, tmp_path / f"{split}.jsonl", dict, most=most)}
            for split, most in (("train", 480), ("validation", 100))
        }
        | {"columns": {"image": "file_name"}},
        epochs=2,
    )
    scores = report["evaluation"]["metrics"]
    assert scores["accuracy"] > 0.3, "the most frequent of ten digits is right in one of ten cases"


KINDS = {"round": (0, 6, 8, 9), "straight": (1, 4, 7), "curved": (2, 3, 5)}
"""Digits by what they are drawn of."""


def by_shape(row: dict[str, Any]) -> dict[str, Any]:
    kinds = {digit: kind for kind, digits in KINDS.items() for digit in digits}
    objects = row["objects"]
    named = [kinds[digit] for digit in objects["category"]]
    return {
        "file_name": row["file_name"],
        "objects": {"bbox": objects["bbox"], "category": named},
    }


def same_for_all(train: Path, held: Path, names: list[str]) -> float:
    """The mAP of who finds, in every scene, what the first scenes of training show."""

    def objects(path: Path) -> list[Any]:
        shown = (row["objects"] for row in read_rows(path))
        return [
            np.array(
                [
                    [names.index(kind), *box]
                    for kind, box in zip(part["category"], part["bbox"], strict=True)
                ]
            )
            for part in shown
        ]

    boxes = np.concatenate(objects(train))[:MAX_DETECTIONS]
    answer = np.concatenate([np.ones((len(boxes), 1)), boxes], axis=1)
    truth = objects(held)
    return detection_report(truth, [answer] * len(truth), names).mean


def test_objects_are_found_and_told_apart(data: Path, tmp_path: Path) -> None:
    scenes, train, held = data / "boxes", tmp_path / "train.jsonl", tmp_path / "held.jsonl"
    report = report_of(
        tmp_path / "boxes",
        "ObjectDetection",
        model=quick_detector(tmp_path / "fresh"),
        data={
            "train": {"uri": chosen(scenes / "train", train, by_shape)},
            "validation": {"uri": chosen(scenes / "validation", held, by_shape, most=60)},
            "columns": {"image": "file_name"},
        },
        epochs=6,
        rate=0.004,
    )
    constant = same_for_all(train, held, sorted(KINDS))
    assert report["evaluation"]["metrics"]["mAP"] > constant + 0.04
    precision = report["report"]["averagePrecision"]
    assert precision.keys() == KINDS.keys()
    assert min(precision.values()) > constant, "every class is found"
    worst = report["worst"]
    assert worst[0]["value"] == max(entry["value"] for entry in worst) >= 1
    assert all(entry["expected"].startswith(tuple(KINDS)) for entry in worst)
    page = (tmp_path / "boxes" / "model" / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == len(worst)

    detect = pipeline("object-detection", str(tmp_path / "boxes" / "model"), threshold=0.0)
    image = Image.open(next((scenes / "validation").glob("*.png"))).convert("RGB")
    assert detect(image)[0].keys() == {"score", "label", "box"}


def words_alone(row: dict[str, Any]) -> dict[str, Any] | None:
    return row if row["transcript"] == row["label"] and row["label"] in WORDS else None


def spoken(data: Path, folder: Path) -> dict[str, dict[str, str]]:
    return {
        split: {"uri": chosen(data / "speech" / split, folder / f"{split}.jsonl", words_alone)}
        for split in ("train", "validation", "test")
    }


def test_spoken_words_are_told_apart(data: Path, tmp_path: Path) -> None:
    report = report_of(
        tmp_path / "words",
        "AudioClassification",
        model=sound_model(tmp_path / "fresh"),
        data={**spoken(data, tmp_path), "columns": {"audio": "file_name"}, "maxSeconds": 1.0},
        epochs=15,
    )
    # Four words, each as frequent as the others; the voices of the test are new.
    assert report["evaluation"]["metrics"]["accuracy"] > 0.4
    assert {score["name"] for score in report["report"]["classes"]} == set(WORDS)

    samples, _ = soundfile.read(
        next((data / "speech" / "test").glob("*-yes-0.wav")), dtype="float32"
    )
    classify = pipeline("audio-classification", str(tmp_path / "words" / "model"))
    assert {one["label"] for one in classify(np.asarray(samples), top_k=None)} == set(WORDS)


def test_speech_becomes_text_with_characters_learnt_from_the_transcripts(
    data: Path, tmp_path: Path
) -> None:
    report = report_of(
        tmp_path / "speech",
        "SpeechRecognition",
        model=sound_model(tmp_path / "fresh"),
        data={**spoken(data, tmp_path), "columns": {"audio": "file_name"}},
        epochs=40,
        rate=0.003,
    )
    scores = report["evaluation"]["metrics"]
    said = [row["transcript"] for row in read_rows(tmp_path / "test.jsonl")]
    for name, rate in (("cer", jiwer.cer), ("wer", jiwer.wer)):
        # Who says the same to every clip, or nothing.
        constant = min(rate(said, [answer] * len(said)) for answer in (*WORDS, ""))
        assert constant <= 0.75
        assert scores[name] < constant - 0.2, name
    assert sum(report["report"]["words"][name] for name in ("hits", "substitutions", "deletions"))

    model = AutoModelForCTC.from_pretrained(tmp_path / "speech" / "model")
    load: Any = AutoProcessor.from_pretrained
    processor = load(tmp_path / "speech" / "model")
    path = next((data / "speech" / "train").glob("*-stop-0.wav"))
    samples, _ = soundfile.read(path, dtype="float32")
    inputs = processor(samples, sampling_rate=RATE, return_tensors="pt")
    heard = processor.batch_decode(model(**inputs).logits.argmax(-1))
    assert set(heard[0]) <= set("yesnotpg ")
