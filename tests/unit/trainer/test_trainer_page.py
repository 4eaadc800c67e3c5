"""The report as a page: all of it is there, data stay text, and nothing beside it is needed."""

import base64
import io
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typing_extensions import override

from support.trainer_runs import finetune_run, pretrain_run
from troika_api.contract import Evaluation
from troika_api.v1alpha1.run import RUN
from troika_trainer import plots
from troika_trainer.curve import Point
from troika_trainer.export import Result
from troika_trainer.images import thumbnail
from troika_trainer.manifest import Progress
from troika_trainer.page import number, page, settings
from troika_trainer.report import Mistake, classification_report

EVIL = "<script>alert('x')</script>\" onload=\"x"
PICTURE = thumbnail(torch.zeros(3, 200, 100, dtype=torch.uint8))
VOID = {"img", "meta", "line", "polyline", "circle", "br"}


class Page(HTMLParser):
    """Reads a page, and minds that what was opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    @override
    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"] and data.strip():
            self.words.append(data.strip())

    def count(self, tag: str, **attributes: str) -> int:
        """How many of a kind there are; `class_` for class."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return sum(name == tag and wanted.items() <= found.items() for name, found in self.tags)


def progress(steps: int = 200) -> Progress:
    return Progress(
        step=steps,
        tokens=123_456,
        best_step=steps // 2,
        history=[
            {"step": float(step), "loss": 1.0 / (1 + step), "f1": 0.5 + step / 1000, "mse": 3.5}
            for step in (steps // 2, steps)
        ],
        curve=[
            Point(step, 3.0 / (1 + step) + 0.2 * math.sin(step), 1e-3, 1.0, 4000.0)
            for step in range(1, steps + 1)
        ],
    )


def result(folder: Path, *, classes: int = 3, **changes: Any) -> Result:
    chance = np.random.default_rng(1)
    truth = chance.integers(0, classes, 500)
    guess = np.where(chance.random(500) < 0.7, truth, chance.integers(0, classes, 500))
    report = classification_report(truth, guess, [EVIL, *(f"c{n}" for n in range(1, classes))])
    values: dict[str, Any] = {
        "run": RUN.validate_python(finetune_run(folder, model=folder / "base", name=EVIL)),
        "pipeline_tag": "text-classification",
        "progress": progress(),
        "evaluation": Evaluation(split="test", metrics={"f1": 0.75, "loss": 0.9}, best_step=100),
        "report": report,
        "worst": [Mistake(7, EVIL, "good", EVIL, "loss", 5.25, PICTURE)],
        "environment": {"torch": "2.15", "Ranks": EVIL},
        **changes,
    }
    return Result(**values)


def test_a_page_has_every_part(tmp_path: Path) -> None:
    found = Page(page(result(tmp_path), now=0.0))
    heads = {"Curves", "Confusion matrix", "Most often confused", "Classes", "Worst examples"}
    assert heads | {"Environment", "Settings"} <= set(found.words)
    assert found.count("svg") == 6
    assert found.count("table", class_="matrix") == 1
    said = "\n".join(found.words)
    for word in ("0.7500", "123,456", "training.globalBatchSize", "loss 5.25", "2.15", "example 7"):
        assert word in said
    assert "1970-01-01 00:00 UTC" in said


def test_what_comes_from_data_stays_text(tmp_path: Path) -> None:
    text = page(result(tmp_path), now=0.0)
    found = Page(text)
    assert found.count("script") == 0
    assert not any("onload" in attributes for _, attributes in found.tags)
    assert found.words.count(EVIL) >= 5  # name, class (twice), prediction, text, environment


@pytest.mark.parametrize(("predicted", "lines"), [("", 1), (None, 0)])
def test_only_a_mistake_that_has_a_prediction_has_a_line_for_it(
    tmp_path: Path, predicted: str | None, lines: int
) -> None:
    """A model that wrote nothing has predicted nothing; one that was not asked has not."""
    worst = [Mistake(7, "ask", "answer", predicted, "loss", 5.25)]
    found = Page(page(result(tmp_path, worst=worst), now=0.0))
    assert found.words.count("predicted") == lines
    assert found.count("dd", class_="wrong") == lines


def test_a_page_asks_for_nothing_beside_itself(tmp_path: Path) -> None:
    text = page(result(tmp_path), now=0.0)
    found = Page(text)
    assert not any("href" in attributes for _, attributes in found.tags)
    sources = [attributes["src"] for _, attributes in found.tags if "src" in attributes]
    assert sources == [PICTURE]
    assert not {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object"}
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize(
    ("classes", "tables", "maps"), [(24, 1, 0), (25, 0, 1), (150, 0, 1), (151, 0, 0)]
)
def test_a_matrix_too_wide_for_numbers_is_a_picture(
    tmp_path: Path, classes: int, tables: int, maps: int
) -> None:
    found = Page(page(result(tmp_path, classes=classes), now=0.0))
    assert found.count("table", class_="matrix") == tables
    assert found.count("svg", class_="heat") == maps


def test_of_many_classes_the_largest_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("troika_trainer.page.MOST_CLASSES", 2)
    truth = np.array([0, 1, 1, 2, 2, 2])
    report = classification_report(truth, truth, ["small", "middle", "large"])
    found = Page(page(result(tmp_path, report=report, worst=[]), now=0.0))
    names = [word for word in found.words if word in {"small", "middle", "large"}]
    assert "The 2 with most rows of 3 classes; report.json has all." in found.words
    assert names[-2:] == ["large", "middle"]


def test_pretraining_has_a_page_too(tmp_path: Path) -> None:
    run = RUN.validate_python(pretrain_run(tmp_path))
    found = Page(page(result(tmp_path, run=run, report=None, worst=[]), now=0.0))
    assert "from scratch" in found.words
    assert "Confusion matrix" not in found.words
    assert found.count("svg") == 6


def test_a_thumbnail_is_a_small_picture_of_the_same_shape_and_colour() -> None:
    pixels = torch.zeros(3, 400, 200, dtype=torch.uint8)
    pixels[1] = 128
    kind, _, content = thumbnail(pixels).partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == "data:image/png;base64"
    assert image.size == (48, 96)
    assert image.getpixel((20, 20)) == (0, 128, 0)


def test_a_run_that_has_nothing_to_draw_has_a_page(tmp_path: Path) -> None:
    bare = Progress(step=1, curve=[Point(1, math.nan, 1e-3, math.inf, 1.0)])
    found = Page(page(result(tmp_path, progress=bare), now=0.0))
    assert found.count("svg") == 2  # learning rate and throughput are numbers


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.31, 2.9, [0.0, 1.0, 2.0, 3.0]),
        (1.0, 480.0, [0.0, 100.0, 200.0, 300.0, 400.0, 500.0]),
        (5.0, 5.0, [5.0]),
        (0.0, 2e-5, [0.0, 5e-6, 1e-5, 1.5e-5, 2e-5]),
    ],
)
def test_ticks_are_round_and_span_the_values(
    low: float, high: float, expected: list[float]
) -> None:
    assert plots.ticks(low, high) == pytest.approx(expected)


def test_lines_stay_within_their_drawing() -> None:
    points = [(float(step), float(step % 7)) for step in range(300)]
    drawn = plots.chart("x", {"a": points}, noisy=True)
    assert drawn is not None
    (line,) = drawn.lines
    for path in (line.path, line.faint):
        places = [tuple(map(float, place.split(","))) for place in path.split()]
        assert all(plots.LEFT <= x <= plots.WIDTH - plots.RIGHT for x, _ in places)
        assert all(plots.TOP <= y <= plots.HEIGHT - plots.BOTTOM for _, y in places)


def test_smoothing_keeps_length_ends_and_straight_lines() -> None:
    line = [float(n) for n in range(200)]
    assert plots.smoothed(line) == pytest.approx(line)
    noisy = [(-1.0) ** n for n in range(200)]
    assert max(map(abs, plots.smoothed(noisy)[20:-20])) < 0.2


@pytest.mark.parametrize(
    ("value", "text"),
    [(12, "12"), (1234567, "1,234,567"), (0.93751, "0.9375"), (1.5e-5, "1.5e-05")],
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert number(value) == text
    assert plots.compact(12_000) == "12k"
    assert plots.compact(3.5e6) == "3.5M"


def test_settings_are_told_in_the_words_of_the_job() -> None:
    folder = Path("/mnt/troika/demo")
    changes = {"data": {"train": {"uri": str(folder / "train.csv")}}}
    run = pretrain_run(folder) | {"kind": "FinetuneJob", "task": "TextClassification"}
    for key in ("objective", "tokenizer", "evaluation"):
        del run[key]
    told = dict(settings(RUN.validate_python(run | changes)))
    assert told["data.train.uri"] == "pvc://demo/train.csv"
    assert told["output.uri"] == "pvc://demo/model"
    columns = {name for name in told if name.startswith("data.columns.")}
    assert columns == {"data.columns.text", "data.columns.label"}, "others are not read"
