"""Runs that tell dark images from light ones, for tests of what a run does with its images."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from . import tinyrun
from .histories import Runs

CLASSES = ("dark", "light")


def write_images(folder: Path, images: Iterable[tuple[torch.Tensor, str]]) -> Path:
    """Write images, uint8 [height, width, 3], and their list with a class for each."""
    folder.mkdir()
    rows = []
    for number, (pixels, label) in enumerate(images):
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "label": label})
    listed = folder / "metadata.jsonl"
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return listed


def shades_run(runs: Runs, name: str, model: Path, epochs: int, **changes: Any) -> dict[str, Any]:
    """A run over the images that `runs` has as its corpus."""
    run = tinyrun.run_dict(
        runs.root / name, runs.corpus, training__steps=None, training__epochs=epochs, **changes
    )
    for key in ("objective", "tokenizer", "evaluation"):
        del run[key]
    return run | {
        "kind": "FinetuneJob",
        "task": "ImageClassification",
        "model": {"path": str(model)},
        "data": {"train": {"uri": str(runs.corpus)}, "validation": {"fraction": 0.34}},
    }


def losses(runs: Runs, name: str) -> list[float]:
    """Validation losses of a run, in the order of its epochs."""
    report = json.loads((runs.root / name / "model" / "report.json").read_text())
    return [entry["loss"] for entry in report["history"]]
