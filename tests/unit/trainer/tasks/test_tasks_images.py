"""Images: what is stored, normalised, masked and refused."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.convnext.image_processing_pil_convnext import (
    ConvNextImageProcessorPil,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from support.senses import TINY_MAE, TINY_VIT, run_of, training
from troika_api.v1alpha1.run import RUN
from troika_trainer.errors import ConfigError, DataError
from troika_trainer.images import (
    ImageStore,
    check_size,
    normalised,
    patches,
    read_image,
    require_one_size,
    sized,
    stored,
)
from troika_trainer.model import build_model
from troika_trainer.rows import Row
from troika_trainer.shards import Store, Writer
from troika_trainer.tasks.image_classification import ImageClassification
from troika_trainer.tasks.masked_image import MaskedImage, hidden_patches

PROCESSOR = ViTImageProcessorPil(size={"height": 16, "width": 16})


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    return Image.fromarray(values)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def store_of(folder: Path, images: list[Image.Image], columns: dict[str, Any]) -> Store:
    writer = Writer(folder, columns)
    writer.add(stored(sized(PROCESSOR, image.convert("RGB"))) for image in images)
    writer.close({"split": "train"})
    return Store(folder)


def masked_task(config: dict[str, Any], **masking: float) -> MaskedImage:
    run = RUN.validate_python(
        run_of(
            Path("masked"),
            kind="PretrainJob",
            objective="MaskedImage",
            model={"config": config},
            masking=masking,
            data={"train": {"uri": "/x.jsonl", "column": "image"}, "imageSize": 16},
            training=training(steps=1),
        )
    )
    task = MaskedImage(run, PROCESSOR)
    task.config = ViTConfig(patch_size=4, image_size=16)
    return task


def test_stored_bytes_normalised_on_the_device_are_what_the_processor_gives() -> None:
    image = noise(40, 30).convert("RGB")
    pixels = torch.from_numpy(sized(PROCESSOR, image))[None]
    theirs = PROCESSOR([image], return_tensors="pt")["pixel_values"]
    assert pixels.dtype == torch.uint8
    assert torch.allclose(normalised(PROCESSOR, pixels), theirs, atol=1e-6)


def test_grey_images_become_rgb_whether_by_path_or_by_bytes(tmp_path: Path) -> None:
    content = png(noise(8, 8))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(content)
    path = str(tmp_path / "rows.jsonl")
    for value in ("a/x.png", content, {"bytes": content, "path": None}, {"path": "a/x.png"}):
        image = read_image(Row({"image": value}, path, 1), "image")
        assert (image.mode, image.size) == ("RGB", (8, 8))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("gone.png", "cannot read"),
        ("rows.jsonl", "is not an image; expected PNG"),
        (7, "expected the path of a file"),
        (None, "got nothing"),
    ],
)
def test_what_is_no_image_is_refused_with_file_line_and_column(
    tmp_path: Path, value: Any, said: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{}")
    with pytest.raises(DataError, match=said) as caught:
        read_image(Row({"image": value}, str(path), 3), "image")
    assert f"{path}, line 3, column 'image'" in str(caught.value)


def test_an_image_of_another_size_than_the_first_is_refused() -> None:
    row = Row({}, "rows.jsonl", 7)
    require_one_size(np.zeros((3, 16, 12), np.uint8), (16, 12), row)
    with pytest.raises(
        DataError, match=r"line 7, the image is 16 x 20 .* training is 16 x 12: give"
    ):
        require_one_size(np.zeros((3, 16, 20), np.uint8), (16, 12), row)


def classifier(folder: Path, processor: Any) -> ImageClassification:
    run = run_of(
        folder,
        kind="FinetuneJob",
        task="ImageClassification",
        model={"path": "/model"},
        data={"train": {"uri": "/x.jsonl"}},
        training=training(steps=1),
    )
    return ImageClassification(RUN.validate_python(run), processor)


def photos(folder: Path, *sizes: tuple[int, int]) -> list[Row]:
    """Images of these heights and widths, of two classes."""
    rows = []
    for number, size in enumerate(sizes):
        noise(*size).save(folder / f"{number}.png")
        values = {"image": f"{number}.png", "label": number % 2}
        rows.append(Row(values, str(folder / "rows.jsonl"), number + 1))
    return rows


@pytest.mark.parametrize(
    "processor",
    [
        # As ResNet and ConvNeXt bring it: one number that is neither height nor width, and a crop
        # of which the fields do not tell.
        ConvNextImageProcessorPil(size={"shortest_edge": 28}, crop_pct=0.875),
        ConvNextImageProcessorPil(size={"shortest_edge": 384}),
        ViTImageProcessorPil(size={"height": 16, "width": 12}),
    ],
    ids=["crop", "warp", "fixed"],
)
def test_the_size_is_what_the_processor_makes(tmp_path: Path, processor: Any) -> None:
    task = classifier(tmp_path, processor)
    rows = photos(tmp_path, (30, 60), (60, 30), (40, 40))
    task.adopt(task.survey(iter(rows)))
    sizes = [tuple(example["size"]) for example in task.encode(rows)]
    assert sizes == [task.size] * 3


def test_images_of_one_shape_need_no_crop_and_another_shape_is_named(tmp_path: Path) -> None:
    task = classifier(tmp_path, ViTImageProcessorPil(size={"shortest_edge": 16}))
    rows = photos(tmp_path, (20, 20), (40, 40), (20, 40))
    task.adopt(task.survey(iter(rows)))
    assert len(list(task.encode(rows[:2]))) == 2
    with pytest.raises(DataError, match=r"rows\.jsonl, line 3, the image is 16 x 32 pixels"):
        list(task.encode(rows))


def test_images_that_a_model_has_no_places_for_are_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    task = masked_task(TINY_VIT)
    model = build_model(task.run, task)
    task.preprocessor = ViTImageProcessorPil(size={"shortest_edge": 16})
    task.adopt(task.survey(iter(photos(tmp_path, (20, 20)))))
    task.attach(model)
    task.adopt(task.survey(iter(photos(tmp_path, (20, 40)))))
    with pytest.raises(ConfigError, match=r"images of 16 x 16 pixels, .* makes them 16 x 32"):
        task.attach(model)


def test_a_classifier_is_asked_whether_it_takes_the_size_of_the_processor() -> None:
    config: Any = ViTConfig(hidden_size=16, num_attention_heads=2, image_size=32)
    model = ViTForImageClassification(config).train()
    check_size(model, (32, 32))
    with pytest.raises(ConfigError, match=r"cannot read images of 32 x 64 pixels, which its image"):
        check_size(model, (32, 64))
    assert model.training


def test_images_of_different_sizes_are_padded_and_their_place_is_known(tmp_path: Path) -> None:
    task = masked_task(TINY_VIT)
    writer = Writer(tmp_path / "s", task.columns)
    writer.add(stored(np.full((3, *size), 9, np.uint8)) for size in ((4, 6), (5, 2)))
    writer.close({})
    pixels, inside = ImageStore(Store(tmp_path / "s")).batch(np.arange(2))
    assert pixels.shape == (2, 3, 5, 6)
    assert inside is not None
    assert inside.sum(dim=(1, 2)).tolist() == [24, 10]
    assert (pixels == 9).all(dim=1).equal(inside.bool())
    assert (normalised(PROCESSOR, pixels, inside)[1, :, :, 2:] == 0).all()


def test_tokens_are_patches() -> None:
    sizes = np.array([[16, 16], [32, 16]])
    assert patches(ViTConfig(patch_size=4), sizes).tolist() == [16, 32]


@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.75, 0.9])
def test_as_many_patches_are_hidden_as_mae_hides(share: float) -> None:
    for count in (4, 16, 49, 196):
        hidden = hidden_patches(count, share)
        assert 0 < hidden < count
        assert hidden == min(count - 1, count - int(count * (1 - share)))


def test_masks_depend_on_seed_epoch_and_sample_and_on_nothing_else(tmp_path: Path) -> None:
    task = masked_task(TINY_MAE, probability=0.5)
    store = store_of(tmp_path / "s", [noise(16, 16, seed) for seed in range(6)], task.columns)
    examples = task.examples(store)
    first = np.zeros(3, dtype=np.int64)
    one = examples.batch(np.array([4, 1, 3]), first)
    other = examples.batch(np.array([1, 4]), first[:2])
    later = examples.batch(np.array([4, 1, 3]), first + 1)
    assert one.labels[0].equal(other.labels[1])
    assert one.labels[1].equal(other.labels[0])
    assert not one.labels.equal(later.labels)
    assert not one.labels[0].equal(one.labels[1])
    assert all(sorted(ranks.tolist()) == list(range(16)) for ranks in one.labels)
    assert one.weight == 3 * 8
