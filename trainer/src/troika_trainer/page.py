"""report.html: one file that opens anywhere, without script and without network.

Here is decided what it says; `templates/report.html` says how it looks. Jinja escapes every value.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from troika_api.contract import storage_uri
from troika_api.v1alpha1.run import FinetuneRun
from troika_api.v1alpha1.tasks import TASKS

from . import plots
from .manifest import Progress
from .report import ClassificationReport
from .runfile import Run
from .tracking.base import flat

if TYPE_CHECKING:
    from .export import Result

COLUMNS = "data.columns."
MOST_COLUMNS = 24
"""Classes up to which a confusion matrix has numbers in it; a page is not wider."""
MOST_CELLS = 150
"""Classes up to which it is drawn at all."""
MOST_CLASSES = 200
"""Rows of the table of classes; report.json has all."""
MOST_CONFUSED = 10


def page(result: "Result", now: float) -> str:
    """The whole page.

    Args:
        result: What the run has to show.
        now: Unix seconds.
    """
    run, evaluation, report = result.run, result.evaluation, result.report
    of_classes = report if isinstance(report, ClassificationReport) else None
    return _template().render(
        result=result,
        run=run,
        base=storage_uri(run.model.path) if run.model.path else "from scratch",
        date=dt.datetime.fromtimestamp(now, dt.UTC),
        metrics=evaluation.metrics,
        main_metric=run.best_by if isinstance(run, FinetuneRun) else "loss",
        charts=charts(result.progress),
        plots=plots,
        report=of_classes,
        most_classes=MOST_CLASSES,
        matrix=matrix(of_classes) if of_classes else None,
        confused=confused(of_classes) if of_classes else [],
        text=report.as_text() if report and not of_classes else "",
        settings=settings(run),
    )


def settings(run: Run) -> list[tuple[str, str]]:
    """What the run was told, in the words of the job; columns that its task does not read are left
    out, as all of them have a name.
    """
    roles = TASKS[run.task].columns if isinstance(run, FinetuneRun) else ()
    return [
        (name, storage_uri(str(value)))
        for name, value in flat(run.wire())
        if not name.startswith(COLUMNS) or name.removeprefix(COLUMNS) in roles
    ]


@cache
def _template() -> Template:
    loader = PackageLoader("troika_trainer")
    environment = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template("report.html")


def number(value: float) -> str:
    """For people: four digits, thousands apart."""
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) >= 1 or abs(value) < 1e-3 else f"{value:.4f}"


def charts(progress: Progress) -> list[plots.Chart]:
    """The curves of a run, the most telling first."""
    points, history = progress.curve, progress.history
    best = None if progress.best_step is None else float(progress.best_step)
    scores = {
        name: [(entry["step"], entry[name]) for entry in history]
        for name in (history[-1] if history else {})
        if name not in ("step", "loss")
    }
    shares = {name: part for name, part in scores.items() if all(0 <= y <= 1 for _, y in part)}
    loss: dict[str, plots.Series] = {
        "training": [(point.step, point.loss) for point in points],
        "validation": [(entry["step"], entry["loss"]) for entry in history],
    }
    rate = [(float(point.step), point.learning_rate) for point in points]
    speed = [(float(point.step), point.tokens_per_second) for point in points]
    norm = [(float(point.step), point.gradient_norm) for point in points]
    found = [
        plots.chart("Loss", loss, mark=best, noisy=True),
        plots.chart("Scores on validation", shares, mark=best),
        *(
            plots.chart(f"{name} on validation", {name: part}, mark=best)
            for name, part in scores.items()
            if name not in shares
        ),
        plots.chart("Learning rate", {"learning rate": rate}, zero=True),
        plots.chart("Throughput, tokens per second", {"tokens/s": speed}, zero=True, noisy=True),
        plots.chart("Gradient norm", {"gradient norm": norm}, zero=True, noisy=True),
    ]
    return [drawn for drawn in found if drawn is not None]


@dataclass(frozen=True)
class Cell:
    """Samples of one class that were taken for another, or for what they are."""

    truth: int
    predicted: int
    count: int
    share: float
    """Of the samples of that class."""


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix to look at."""

    names: list[str]
    rows: list[list[Cell]]
    has_numbers: bool


def matrix(report: ClassificationReport) -> Matrix | None:
    """Rows are the truth; None where there is none or nobody could see anything in it."""
    if report.confusion is None or len(report.classes) > MOST_CELLS:
        return None
    return Matrix(
        names=[score.name for score in report.classes],
        rows=[
            [_cell(row, column, counts) for column in range(len(counts))]
            for row, counts in enumerate(report.confusion)
        ],
        has_numbers=len(report.classes) <= MOST_COLUMNS,
    )


def _cell(row: int, column: int, counts: Sequence[int]) -> Cell:
    return Cell(row, column, counts[column], counts[column] / max(sum(counts), 1))


def confused(report: ClassificationReport) -> list[Cell]:
    """The classes that are taken for another one most often."""
    cells = [
        _cell(row, column, counts)
        for row, counts in enumerate(report.confusion or [])
        for column, count in enumerate(counts)
        if count and column != row
    ]
    return sorted(cells, key=lambda cell: -cell.count)[:MOST_CONFUSED]
