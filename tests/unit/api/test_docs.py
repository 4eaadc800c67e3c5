"""What the documentation repeats from the code is what the code says."""

import re
from pathlib import Path

import pytest

from troika_api.contract import FailureClass
from troika_api.metrics import OPERATOR_METRICS, TRAINER_METRICS, Metric
from troika_api.v1alpha1.data import DEFAULT_COLUMNS
from troika_api.v1alpha1.status import Phase
from troika_api.v1alpha1.tasks import TASKS, Task

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


def cells(page: str) -> dict[str, list[str]]:
    """First cell of every row of a page's tables, and the others."""
    text = (DOCS / page).read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return {first.strip("`| "): [cell.strip("| ") for cell in rest] for first, *rest in rows}


@pytest.mark.parametrize("task", TASKS)
def test_the_columns_and_scores_of_every_task_are_listed(task: Task) -> None:
    columns, scores = cells("data-and-models.md")[task]
    facts = TASKS[task]
    named = re.findall(r"`(\w+)`(?: \(`(\w+)`\))?", columns)
    assert [role for role, _ in named] == list(facts.columns)
    for role, default in named:
        assert DEFAULT_COLUMNS[role] in (default or role, None)
    assert scores.split(", ") == list(facts.criteria)


@pytest.mark.parametrize("metric", [*TRAINER_METRICS, *OPERATOR_METRICS], ids=lambda m: m.name)
def test_every_series_is_listed(metric: Metric) -> None:
    kind, labels, text = cells("metrics.md")[metric.name]
    assert (kind, labels, text) == (metric.type, ", ".join(metric.labels), metric.help)


def test_queries_ask_for_series_that_exist() -> None:
    known = {metric.name for metric in (*TRAINER_METRICS, *OPERATOR_METRICS)}
    asked = set(re.findall(r"\btroika_\w+", (DOCS / "metrics.md").read_text()))
    assert {name if name in known else HISTOGRAM.sub("", name) for name in asked} == known


@pytest.mark.parametrize("word", [*Phase, *FailureClass])
def test_every_phase_and_class_of_failure_is_explained(word: Phase | FailureClass) -> None:
    listed = {name for first in cells("when-it-does-not-run.md") for name in first.split(", ")}
    assert word in listed


def test_links_lead_somewhere() -> None:
    pages = [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), ROOT / "charts/troika/README.md"]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"
