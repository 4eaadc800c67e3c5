"""The runs whose loss curves are kept here. `python -m golden.trainer.curves` writes them anew.

Run it from `tests/` after a change that is meant to change the numbers, and say in the commit why
they moved. A change that is not meant to must leave the curves as they are.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch

from support.trainer_runs import TINY_GPT, finetune_run, pretrain_run, train_here

FOLDER = Path(__file__).parent
LONGER = {"training": {"steps": 30}, "evaluation": {"everySteps": 30}}


def masked_lm(folder: Path) -> dict[str, Any]:
    """BERT on the licence."""
    return pretrain_run(folder, **LONGER)


def causal_lm(folder: Path) -> dict[str, Any]:
    """GPT-2 on the licence, in micro-batches of three."""
    run = pretrain_run(
        folder,
        objective="CausalLM",
        model={"config": None},
        tokenizer={"train": {"lowercase": None}},
        **LONGER,
    )
    run["model"]["config"] = TINY_GPT
    run["training"]["microBatchSize"] = 3
    return run


def text_classification(folder: Path) -> dict[str, Any]:
    """BERT, pretrained on the licence, on made-up reviews."""
    train_here(masked_lm(folder / "base"))
    return finetune_run(folder, model=folder / "base" / "model", training={"epochs": 5})


CURVES = {run.__name__: run for run in (masked_lm, causal_lm, text_classification)}


def losses(name: str, folder: Path) -> list[float]:
    """The loss of every step of a curve."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order are other sums
    try:
        return train_here(CURVES[name](folder)).losses
    finally:
        torch.set_num_threads(threads)


def read(name: str) -> list[float]:
    """The curve that is kept: one line a step, `step loss`."""
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    return [float(line.split()[1]) for line in lines if not line.startswith("#")]


def write(name: str) -> None:
    """Keep this curve from now on."""
    with tempfile.TemporaryDirectory() as folder:
        found = losses(name, Path(folder))
    head = f"# {CURVES[name].__doc__} step loss; written by golden.trainer.curves\n"
    lines = [f"{step} {loss:.6f}" for step, loss in enumerate(found, start=1)]
    (FOLDER / f"{name}.txt").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    for curve in CURVES:
        write(curve)
