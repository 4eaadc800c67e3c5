"""Images: what is stored, normalised, masked and refused."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from support.senses import TINY_MAE, TINY_VIT, run_of, training
from troika_api.v1alpha1.run import RUN
from troika_trainer.errors import DataError
from troika_trainer.images import (
    ImageStore,
    normalised,
    patches,
    read_image,
    require_one_size,
    sized,
    stored,
)
from troika_trainer.rows import Row
from troika_trainer.shards import Store, Writer
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


def test_a_processor_that_leaves_sizes_as_they_are_is_refused_where_one_is_needed() -> None:
    loose = ViTImageProcessorPil(size={"shortest_edge": 16})
    row = Row({}, "rows.jsonl", 1)
    require_one_size(np.zeros((3, 16, 16), np.uint8), PROCESSOR, row)
    with pytest.raises(DataError, match="expected one fixed size"):
        require_one_size(np.zeros((3, 16, 20), np.uint8), loose, row)


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
