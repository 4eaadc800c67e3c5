"""The finished model in the layout that `from_pretrained` reads, with its card and its report."""

import contextlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from troika_api.contract import Evaluation
from troika_api.v1alpha1.run import FinetuneRun

from .delivery import Delivery
from .errors import StorageError
from .manifest import Progress
from .method import Adapter
from .model import longest_input
from .page import page
from .preprocessor import Preprocessor
from .report import Mistake, Report
from .runfile import Run

CARD = """---
{card_data}
---

# {name}

Trained by a Troika {kind} ({goal}) on {tokens:,} tokens in {steps:,} steps.
{base}
{scores}
"""

BASE = """
This is an adapter of {base}. Load it with `PeftModel.from_pretrained(model, HERE)`,
where `model` was loaded with the configuration `AutoConfig.from_pretrained(HERE)`.
Where it was trained the model was at the `base_model_name_or_path` of adapter_config.json.
"""

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Result:
    """What a run has to show."""

    run: Run
    pipeline_tag: str
    progress: Progress
    evaluation: Evaluation
    report: Report | None = None
    worst: Sequence[Mistake] = ()
    """What went most wrong, worst first."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it was trained with, by name."""

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
            "curve": [point._asdict() for point in self.progress.curve],
            "report": self.report.as_dict() if self.report else None,
            "worst": [mistake.as_dict() for mistake in self.worst],
            "environment": dict(self.environment),
            "run": self.run.wire(),
        }


def export(
    model: PreTrainedModel | Adapter,
    preprocessor: Preprocessor,
    result: Result,
    delivery: Delivery,
) -> None:
    """Write the model directory of the run, ready to be published; readers see none of it yet.

    Raises:
        StorageError: it cannot be written; what is at output.uri is as it was.
    """
    with _storage_errors(delivery.uri):
        delivery.begin()
        _write(delivery.directory, model, preprocessor, result)
        delivery.settle()


def publish(delivery: Delivery) -> None:
    """Put what was exported where readers look.

    Raises:
        StorageError: it cannot be put there.
    """
    with _storage_errors(delivery.uri):
        delivery.publish()


@contextlib.contextmanager
def _storage_errors(uri: str) -> Iterator[None]:
    """Safetensors says what the system said, in a sentence of its own."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise StorageError(
            f"cannot write the model to {uri}: {said}; all steps are saved",
            "make room on the volume of output.uri: the next attempt has only this left to do",
        ) from error


def _write(
    directory: Path,
    model: PreTrainedModel | Adapter,
    preprocessor: Preprocessor,
    result: Result,
) -> None:
    whole = model.model if isinstance(model, Adapter) else model
    if isinstance(preprocessor, PreTrainedTokenizerFast):
        limit = longest_input(whole) or preprocessor.model_max_length
        preprocessor.model_max_length = limit
    model.save_pretrained(directory)
    preprocessor.save_pretrained(directory)
    (directory / "report.json").write_text(json.dumps(result.as_dict(), indent=1))
    (directory / "report.html").write_text(page(result, time.time()))
    if result.report:
        (directory / "report.txt").write_text(result.report.as_text())
    _card(result, _base(model)).save(directory / "README.md")


def _base(model: PreTrainedModel | Adapter) -> str | None:
    """The model that is needed beside what was exported."""
    return model.base if isinstance(model, Adapter) and not model.merge else None


def _card(result: Result, base: str | None) -> ModelCard:
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
        library_name="peft" if base else "transformers",
        base_model=base if base and HUB_NAME.fullmatch(base) else None,
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
            base=BASE.format(base=base) if base else "",
            scores=f"On the {result.evaluation.split} split:\n\n" + "\n".join(table) + report,
        )
    )
