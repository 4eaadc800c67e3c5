"""Trackers get every number once and in order; whatever they do, giving never waits or fails."""

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typing_extensions import override

from support.trainer_runs import finetune_run, pretrain_run
from troika_api.contract import Evaluation
from troika_api.v1alpha1.run import RUN
from troika_api.v1alpha1.tracking import MLflowTracking, WandbMode, WandbTracking
from troika_trainer.curve import Point
from troika_trainer.errors import TerminatedError
from troika_trainer.place import Place
from troika_trainer.telemetry import Telemetry
from troika_trainer.tracking import Tracking, trackers
from troika_trainer.tracking.base import Entry, Outcome, flat
from troika_trainer.tracking.mlflow import MLflow, params_of
from troika_trainer.tracking.tensorboard import TensorBoard
from troika_trainer.tracking.wandb import WeightsAndBiases

LONG = 60.0
"""Seconds that nothing here takes, unless it hangs."""


class Book:
    """A tracker that keeps what it is told, and fails as often as it is asked to."""

    name = "Book"

    def __init__(self, *, failures: int = 0) -> None:
        self.failures = failures
        self.opened: list[int] = []
        self.entries: list[tuple[int, dict[str, float]]] = []
        self.outcome: Outcome | None = None
        self.closed = threading.Event()
        self.first = threading.Event()

    def open(self, step: int) -> None:
        self.opened.append(step)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("nobody there")

    def log(self, entries: list[Entry]) -> None:
        self.entries += [(entry.step, entry.numbers) for entry in entries]
        self.first.set()

    def close(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.closed.set()


class Deaf(Book):
    """A tracker that never comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    @override
    def open(self, step: int) -> None:
        self.release.wait(LONG)


class Fickle(Book):
    """A tracker that breaks when it is given the second entry."""

    def __init__(self) -> None:
        super().__init__()
        self.again = threading.Event()

    @override
    def open(self, step: int) -> None:
        super().open(step)
        if len(self.opened) == 2:
            self.again.set()

    @override
    def log(self, entries: list[Entry]) -> None:
        if len(self.opened) == 1 and self.entries:
            raise OSError("disk full")
        super().log(entries)


def quick(*books: Book) -> Tracking:
    return Tracking(books, pause=0.001, retry=0.001)


def test_all_numbers_arrive_in_order_and_the_end_is_told() -> None:
    books = Book(), Book()
    tracking = quick(*books)
    tracking.begin(3)
    for step in range(3, 2003):
        tracking.log(step, {"a": float(step)})
    tracking.end(Outcome.SUCCEEDED, seconds=LONG)
    for book in books:
        assert book.entries == [(step, {"a": float(step)}) for step in range(3, 2003)]
        assert (book.opened, book.outcome) == ([3], Outcome.SUCCEEDED)


def test_before_the_beginning_numbers_go_nowhere() -> None:
    book = Book()
    tracking = quick(book)
    tracking.log(0, {"a": 1.0})
    tracking.end(Outcome.FAILED)
    assert book.opened == []


def test_a_tracker_that_is_down_is_warned_about_once_and_gets_all_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    book = Book(failures=5)
    tracking = quick(book)
    tracking.begin(0)
    tracking.log(1, {"a": 1.0})
    assert book.first.wait(LONG)
    tracking.end(Outcome.TERMINATED, seconds=LONG)
    assert book.entries == [(1, {"a": 1.0})]
    assert len(book.opened) == 6
    assert book.outcome is Outcome.TERMINATED
    assert [record.getMessage() for record in caplog.records] == [
        "Book: ConnectionError: nobody there; training goes on without it"
    ]


def test_what_failed_is_tried_again_from_the_step_after_the_last_that_arrived() -> None:
    book = Fickle()
    tracking = quick(book)
    tracking.begin(0)
    tracking.log(1, {"a": 1.0})
    assert book.first.wait(LONG)
    tracking.log(2, {"a": 2.0})
    assert book.again.wait(LONG)
    tracking.end(Outcome.SUCCEEDED, seconds=LONG)
    assert [step for step, _ in book.entries] == [1, 2]
    assert book.opened == [0, 2]


def test_the_end_waits_no_longer_than_it_may(caplog: pytest.LogCaptureFixture) -> None:
    deaf, book = Deaf(), Book()
    tracking = quick(deaf, book)
    tracking.begin(0)
    for step in range(10_000):
        tracking.log(step, {"a": 1.0})
    tracking.end(Outcome.SUCCEEDED, seconds=0.2)
    deaf.release.set()
    assert "Book did not get all numbers" in caplog.text


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, Outcome.SUCCEEDED),
        (TerminatedError("stopped"), Outcome.TERMINATED),
        (ValueError("bug"), Outcome.FAILED),
    ],
)
def test_telemetry_tells_trackers_all_it_is_told(error: Exception | None, outcome: Outcome) -> None:
    book, seen = Book(), Telemetry(kind="PretrainJob", name="a", place=Place())
    with (
        pytest.raises(type(error)) if error else contextlib.nullcontext(),
        seen.tracking(quick(book)),
    ):
        seen.resumed(step=4, tokens=100)
        seen.plotted(Point(5, 2.0, 1e-3, 1.5, 400.0))
        seen.status.step = 5
        seen.validated({"loss": 3.0, "f1": 0.5})
        seen.tested(Evaluation(split="test", metrics={"f1": 0.25}))
        seen.tested(Evaluation(split="validation", metrics={"f1": 0.5}))
        if error:
            raise error
    assert (book.opened, book.outcome) == ([5], outcome)
    assert book.entries == [
        (
            5,
            {
                "train/loss": 2.0,
                "train/learning_rate": 1e-3,
                "train/gradient_norm": 1.5,
                "train/tokens_per_second": 400.0,
                "train/tokens": 100.0,
            },
        ),
        (5, {"validation/loss": 3.0, "validation/f1": 0.5}),
        (5, {"test/f1": 0.25}),
    ]


def test_event_files_continue_where_a_resumed_run_does(tmp_path: Path) -> None:
    for first, last in ((0, 8), (6, 12)):  # the second begins at the checkpoint of step 5
        board = TensorBoard(tmp_path)
        board.open(first)
        board.log([Entry(step, 1.0, {"train/loss": first + step}) for step in range(first, last)])
        board.close(Outcome.FAILED)
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        *((step, float(step)) for step in range(6)),
        *((step, 6.0 + step) for step in range(6, 12)),
    ]


def test_every_run_has_tensorboard_and_the_others_on_request(tmp_path: Path) -> None:
    def kinds(**changes: Any) -> list[type]:
        run = RUN.validate_python(finetune_run(tmp_path, model=tmp_path, **changes))
        return [type(found) for found in trackers(run, tmp_path)]

    assert kinds() == [TensorBoard]
    both = {"mlflow": {"uri": "http://localhost:5000"}, "wandb": {"project": "reviews"}}
    assert kinds(tracking=both) == [TensorBoard, MLflow, WeightsAndBiases]


def test_wandb_without_a_key_says_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    run = RUN.validate_python(finetune_run(tmp_path, model=tmp_path))
    found = WeightsAndBiases(WandbTracking(project="a"), run, tmp_path)
    with pytest.raises(PermissionError, match="put WANDB_API_KEY into the Secret of tracking"):
        found.open(0)


def test_settings_have_a_line_for_every_leaf() -> None:
    assert dict(flat({"a": {"b": 1, "c": {"d": [2]}}, "e": {}})) == {
        "a.b": 1,
        "a.c.d": [2],
        "e": {},
    }


def test_settings_are_such_that_mlflow_takes_them_in_every_attempt(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "name": "x" * 600,
        "model": {"config": {"odd:key?": 1}},
        "tracking": {"wandb": {"project": "later"}},
    }
    run = RUN.validate_python(pretrain_run(tmp_path, **changes))
    params = params_of(run)
    assert params["model.config.odd_key_"] == "1"
    assert len(params["name"]) == 500
    assert not any(name.startswith("tracking") for name in params)


@pytest.mark.parametrize("uri", ["ftp://host", "http://me:secret@host", "host:5000"])
def test_the_trainer_refuses_what_the_api_refuses(uri: str) -> None:
    with pytest.raises(ValueError, match="uri"):
        MLflowTracking(uri=uri)


def test_modes_are_those_of_the_api() -> None:
    assert WandbTracking(project="a").mode is WandbMode.ONLINE
