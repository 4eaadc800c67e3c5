"""A model with batch norms is one model on several ranks: evaluated, saved and resumed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

from support.histories import Runs
from support.nursery import Nursery
from support.shades import CLASSES, losses, shades_run, write_images

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forked: Nursery) -> Runs:
    root = tmp_path_factory.mktemp("runs")
    return Runs(root, write_images(root / "images", shades()), forked)


def shades() -> Iterator[tuple[torch.Tensor, str]]:
    """48 images, each of another grey with noise."""
    noise = torch.Generator().manual_seed(3)
    for number in range(48):
        grey = 20 + 4 * number
        pixels = (grey + 12 * torch.randn(16, 16, 3, generator=noise)).clamp(0, 255).byte()
        yield pixels, CLASSES[number > 23]


def resnet(folder: Path) -> Path:
    torch.manual_seed(5)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def classify(runs: Runs, name: str, **changes: Any) -> dict[str, Any]:
    return shades_run(runs, name, resnet(runs.root / "fresh"), epochs=6, **changes)


@pytest.mark.parametrize("sharding", ["None", "FSDP"])
def test_a_resumed_run_is_the_uninterrupted_one(runs: Runs, sharding: str) -> None:
    whole, parts = f"whole-{sharding}", f"parts-{sharding}"
    changes = {"training__sharding": sharding, "checkpoint__interval": "3steps"}
    runs.finish(classify(runs, whole, **changes), whole, ranks=2)
    run = classify(runs, parts, **changes)
    runs.stop_at(run, parts, step=7, ranks=2, of=24)
    runs.finish(run, parts, ranks=2, TROIKA_ATTEMPT="1")
    assert losses(runs, parts) == pytest.approx(losses(runs, whole), abs=1e-5)
    one, other = runs.weights(whole), runs.weights(parts)
    assert sum("running" in name for name in one) >= 8
    assert all(torch.allclose(one[name].float(), other[name].float(), atol=1e-4) for name in one)


def test_the_checkpoint_has_what_evaluation_saw_and_the_export(runs: Runs, tmp_path: Path) -> None:
    """Buffers of a checkpoint come from this rank or that; the first exports, both evaluate."""
    name = "saved"
    runs.finish(classify(runs, name, checkpoint__keep=9), name, ranks=2)
    newest = max(runs.steps(name))
    manifest = runs.root / name / "checkpoints" / f"step-{newest}" / "manifest.json"
    best = json.loads(manifest.read_text())["progress"]["best_step"]
    dcp_to_torch_save(runs.root / name / "checkpoints" / f"step-{best}", tmp_path / "whole.pt")
    saved = torch.load(tmp_path / "whole.pt", weights_only=False)["model"]
    exported = runs.weights(name)
    assert all(torch.equal(saved[key], exported[key]) for key in exported)
