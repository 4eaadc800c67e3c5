"""Images that are varied in every epoch: the same ones after a resume, on any number of ranks."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from support.histories import Runs
from support.nursery import Nursery
from support.senses import TINY_VIT
from support.shades import CLASSES, losses, shades_run, write_images

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forked: Nursery) -> Runs:
    root = tmp_path_factory.mktemp("runs")
    return Runs(root, write_images(root / "images", shades()), forked)


def shades() -> Iterator[tuple[torch.Tensor, str]]:
    """48 images of noise, every other one lighter by 100."""
    noise = torch.Generator().manual_seed(3)
    for number in range(48):
        pixels = torch.randint(0, 156, (24, 32, 3), generator=noise) + 100 * (number % 2)
        yield pixels.byte(), CLASSES[number % 2]


def classify(runs: Runs, name: str, augmentation: str) -> dict[str, Any]:
    start = runs.root / "fresh"
    torch.manual_seed(5)
    config: dict[str, Any] = {**TINY_VIT, "image_size": 16}
    ViTForImageClassification(ViTConfig(**config)).save_pretrained(start)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(start)
    run = shades_run(runs, name, start, epochs=3)
    return run | {"data": {**run["data"], "augmentation": augmentation}}


@pytest.mark.parametrize("augmentation", ["Flip", "CropAndFlip"])
def test_a_run_that_goes_on_with_more_ranks_is_the_uninterrupted_one(
    runs: Runs, augmentation: str
) -> None:
    whole, parts = f"whole-{augmentation}", f"parts-{augmentation}"
    runs.finish(classify(runs, whole, augmentation), whole)
    run = classify(runs, parts, augmentation)
    runs.stop_at(run, parts, step=6, of=12)
    runs.finish(run, parts, ranks=2, TROIKA_ATTEMPT="1")
    assert losses(runs, parts) == pytest.approx(losses(runs, whole), abs=1e-5)
    one, other = runs.weights(whole), runs.weights(parts)
    assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)


def test_each_kind_of_variation_trains_another_model(runs: Runs) -> None:
    found = {}
    for kind in ("None", "Flip", "CropAndFlip"):
        runs.finish(classify(runs, f"kind-{kind}", kind), f"kind-{kind}")
        found[kind] = losses(runs, f"kind-{kind}")
    assert found["None"] != found["Flip"] != found["CropAndFlip"] != found["None"]
