"""The finished model in the layout that `from_pretrained` reads, with its card and its report."""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from troika_api.contract import Evaluation
from troika_api.v1alpha1.run import FinetuneRun

from .checkpoint import Progress
from .model import longest_input
from .report import ClassificationReport
from .runfile import Run

CARD = """---
{card_data}
---

# {name}

Trained by a Troika {kind} ({goal}) on {tokens:,} tokens in {steps:,} steps.

{scores}
"""


@dataclass(frozen=True)
class Result:
    """What a run has to show."""

    run: Run
    pipeline_tag: str
    progress: Progress
    evaluation: Evaluation
    report: ClassificationReport | None = None

    @property
    def goal(self) -> str:
        """Objective or task."""
        return (self.run.task if isinstance(self.run, FinetuneRun) else self.run.objective).value

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "name": self.run.name,
            "kind": self.run.kind,
            "goal": self.goal,
            "steps": self.progress.step,
            "tokens": self.progress.tokens,
            "evaluation": json.loads(self.evaluation.to_json()),
            "history": self.progress.history,
            "report": self.report.as_dict() if self.report else None,
        }


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, result: Result) -> None:
    """Write the model directory of the run, whole or not at all."""
    filesystem, path = fsspec.core.url_to_fs(result.run.output.uri)
    if isinstance(filesystem, LocalFileSystem):
        target = Path(path)
        staged = target.parent / f".{target.name}.tmp"
        _write(staged, model, tokenizer, result)
        _replace(staged, target)
        return
    with tempfile.TemporaryDirectory(prefix="troika-export-") as scratch:
        staged = Path(scratch) / "model"
        _write(staged, model, tokenizer, result)
        filesystem.put(f"{staged}/", path, recursive=True)


def _write(
    directory: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, result: Result
) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    tokenizer.model_max_length = longest_input(model) or tokenizer.model_max_length
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "report.json").write_text(json.dumps(result.as_dict(), indent=1))
    if result.report:
        (directory / "report.txt").write_text(result.report.as_text())
    _card(result).save(directory / "README.md")


def _replace(staged: Path, target: Path) -> None:
    """Put a directory where another may be; a mount point cannot move, only its files."""
    if target.is_mount():
        for file in sorted(staged.iterdir()):
            file.replace(target / file.name)
        staged.rmdir()
        return
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    staged.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _card(result: Result) -> ModelCard:
    run, scores = result.run, result.evaluation.metrics
    results = [
        EvalResult(
            task_type=result.pipeline_tag,
            dataset_type=run.name,
            dataset_name=f"{run.name} ({result.evaluation.split})",
            dataset_split=result.evaluation.split,
            metric_type=name,
            metric_value=round(value, 5),
        )
        for name, value in scores.items()
    ]
    data = ModelCardData(
        model_name=run.name,
        library_name="transformers",
        pipeline_tag=result.pipeline_tag,
        tags=["troika", result.goal],
        eval_results=results,
    )
    table = ["| metric | value |", "| --- | --- |"]
    table += [f"| {name} | {value:.4f} |" for name, value in scores.items()]
    report = f"\n\n```\n{result.report.as_text()}```" if result.report else ""
    return ModelCard(
        CARD.format(
            card_data=data.to_yaml(),
            name=run.name,
            kind=run.kind,
            goal=result.goal,
            tokens=result.progress.tokens,
            steps=result.progress.step,
            scores=f"On the {result.evaluation.split} split:\n\n" + "\n".join(table) + report,
        )
    )
