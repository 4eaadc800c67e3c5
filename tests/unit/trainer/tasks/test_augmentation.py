"""Training images are varied by seed, epoch and example, and by nothing else; others never."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from support.senses import run_of, training
from troika_api.v1alpha1.run import RUN
from troika_trainer.augmentation import (
    DETAIL,
    NARROWEST,
    SMALLEST,
    WIDEST,
    crops,
    mirrored,
    resized,
    whole,
)
from troika_trainer.rows import Row
from troika_trainer.shards import Store, Writer
from troika_trainer.tasks.image_classification import ImageClassification, LabelledImages

SIDE, IMAGES = 16, 12
MANY = np.arange(4000)


def png(seed: int) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def examples_of(
    folder: Path, augmentation: str | None, *, split: str = "train", seed: int = 17
) -> LabelledImages:
    """A dozen images of 50 x 40 pixels, for a model that is given squares of 16."""
    data = {"train": {"uri": "/x.jsonl"}, "augmentation": augmentation}
    run = run_of(
        folder,
        kind="FinetuneJob",
        task="ImageClassification",
        model={"path": "/x"},
        data=data,
        training=training(steps=1, seed=seed),
    )
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    task = ImageClassification(RUN.validate_python(run), processor)
    task.config = Any  # type: ignore[assignment]  # a model that cuts no patches
    rows = [
        Row({"image": png(number), "label": number % 2}, "rows.parquet", number)
        for number in range(IMAGES)
    ]
    task.adopt(task.survey(iter(rows)))
    writer = Writer(folder / f"{augmentation}-{split}-{seed}", task.columns)
    writer.add(task.encode(rows))
    writer.close({"split": split})
    return task.examples(Store(folder / f"{augmentation}-{split}-{seed}"))


def pixels(examples: LabelledImages, indices: list[int], epoch: int) -> np.ndarray[Any, Any]:
    numbers = np.array(indices)
    found: np.ndarray[Any, Any] = (
        examples.batch(numbers, np.full_like(numbers, epoch)).inputs["pixels"].numpy()
    )
    assert found.shape == (len(indices), 3, SIDE, SIDE)
    return found


@pytest.mark.parametrize("augmentation", ["Flip", "CropAndFlip"])
def test_a_view_depends_on_seed_epoch_and_example_alone(tmp_path: Path, augmentation: str) -> None:
    examples = examples_of(tmp_path, augmentation)
    first = pixels(examples, list(range(IMAGES)), 3)
    other = pixels(examples, [7, 2, 11], 3)
    assert (other == first[[7, 2, 11]]).all(), "whoever it shares a batch with"
    again = examples_of(tmp_path / "again", augmentation)
    assert (pixels(again, list(range(IMAGES)), 3) == first).all(), "whatever came before"
    assert (pixels(examples, list(range(IMAGES)), 4) != first).any(), "another epoch"
    elsewhere = examples_of(tmp_path, augmentation, seed=18)
    assert (pixels(elsewhere, list(range(IMAGES)), 3) != first).any(), "another seed"


def test_examples_of_one_batch_may_be_of_two_epochs(tmp_path: Path) -> None:
    examples = examples_of(tmp_path, "CropAndFlip")
    mixed = examples.batch(np.array([5, 5]), np.array([0, 1])).inputs["pixels"].numpy()
    assert (mixed[0] == pixels(examples, [5], 0)[0]).all()
    assert (mixed[1] == pixels(examples, [5], 1)[0]).all()


@pytest.mark.parametrize(
    ("augmentation", "split"),
    [
        (None, "train"),
        ("None", "train"),
        ("Flip", "validation"),
        ("CropAndFlip", "validation"),
        ("CropAndFlip", "test"),
    ],
)
def test_what_is_measured_stays_as_the_processor_makes_it(
    tmp_path: Path, augmentation: str | None, split: str
) -> None:
    examples = examples_of(tmp_path, augmentation, split=split)
    plain = examples.images.batch(np.arange(IMAGES))[0].numpy()
    for epoch in range(3):
        assert (pixels(examples, list(range(IMAGES)), epoch) == plain).all()


def test_about_half_of_the_images_are_mirrored_and_all_else_stays(tmp_path: Path) -> None:
    examples = examples_of(tmp_path, "Flip")
    plain = examples.images.batch(np.arange(IMAGES))[0].numpy()
    turned = 0
    for epoch in range(8):
        for found, was in zip(pixels(examples, list(range(IMAGES)), epoch), plain, strict=True):
            mirror = (found == was[:, :, ::-1]).all()
            assert mirror or (found == was).all()
            turned += int(mirror)
    assert 30 <= turned <= 66, "of 96"
    assert np.mean(mirrored(1, MANY, np.zeros_like(MANY))) == pytest.approx(0.5, abs=0.03)


def test_crops_are_of_every_size_and_shape_that_is_allowed() -> None:
    sizes = np.tile([300, 400], (len(MANY), 1))
    top, left, height, width = crops(sizes, 17, MANY, np.zeros_like(MANY)).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 300).all()
    assert (left + width <= 400).all()
    share = height * width / (300 * 400)
    assert share.min() == pytest.approx(SMALLEST, abs=0.01)
    assert share.max() > 0.95
    shape = width / height
    assert (shape.min(), shape.max()) == pytest.approx((NARROWEST, WIDEST), rel=0.02)
    # Every edge is reached, so that no part of the image is left out.
    assert (top.min(), left.min()) == (0, 0)
    assert ((top + height).max(), (left + width).max()) == (300, 400)


@pytest.mark.parametrize(
    ("size", "crop"),
    [((10, 1000), [0, 494, 10, 13]), ((1000, 10), [494, 0, 13, 10]), ((1, 1), [0, 0, 1, 1])],
)
def test_of_a_very_long_image_the_middle_is_seen(size: tuple[int, int], crop: list[int]) -> None:
    found = crops(np.tile(size, (50, 1)), 17, np.arange(50), np.zeros(50, dtype=np.int64))
    assert (found == crop).all()


def test_a_crop_is_that_part_of_the_image_at_the_size_of_the_model() -> None:
    image = np.zeros((3, 40, 60), dtype=np.uint8)
    image[:, 10:20, 30:50] = [[[10]], [[20]], [[30]]]
    found = resized(image, np.array([10, 30, 10, 20]), (8, 6), Image.Resampling.BICUBIC)
    assert found.shape == (3, 8, 6)
    assert (found == np.array([10, 20, 30]).reshape(3, 1, 1)).all()


def test_more_details_than_are_seen_are_not_kept() -> None:
    stored = whole(Image.new("RGB", (3000, 2000)), (20, 16))
    assert stored["whole_size"].tolist() == [20 * DETAIL, 60]
    assert len(stored["whole"]) == 3 * 40 * 60
    small = whole(Image.new("RGB", (30, 20)), (224, 224))
    assert small["whole_size"].tolist() == [20, 30]
