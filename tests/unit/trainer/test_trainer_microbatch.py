"""The micro-batch that fits and pays is found once; where memory runs out it is halved."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.fullmemory import fill
from support.trainer_runs import pretrain_run, train_here
from troika_api.contract import FailureClass
from troika_api.v1alpha1.run import RUN
from troika_trainer.batch import Batch, Integers
from troika_trainer.distributed import Group
from troika_trainer.errors import (
    EXIT_CRASH,
    OutOfMemoryError,
    ShrunkError,
    TerminatedError,
    verdict,
)
from troika_trainer.microbatch import Kept, Trial, longest, search
from troika_trainer.place import Place
from troika_trainer.shutdown import StopSignal

DROPOUT = {"hidden_dropout_prob": 0.2}


def machine(
    *,
    rate: dict[int, float],
    holds: int = 1 << 30,
    fails: int = 1 << 30,
    jumps: int = 1 << 30,
    fixed: float = 0.0,
    copies: float = 0.0,
) -> tuple[list[int], int | None]:
    """What is tried, and what is chosen, where so many sequences fit and each size is so fast.

    Args:
        rate: Sequences a second, by size.
        holds: The size that takes all the memory that may be used.
        fails: The first size where memory runs out.
        jumps: The first size that takes more than may be used, unforeseen.
        fixed: Share of the memory that is there before a pass, or is left after it.
        copies: Share that a pass needs, whatever its size.
    """
    tried = []

    def measure(size: int) -> Trial | None:
        tried.append(size)
        if size >= fails:
            return None
        growth = copies + (0.9 - fixed - copies) * size / holds
        share = 0.95 if size >= jumps else fixed + growth
        return Trial(seconds=size / rate[size], share=share, growth=growth)

    try:
        return tried, search(measure, limit=max(rate))
    except OutOfMemoryError:
        return tried, None


FASTER = {size: float(size) for size in (1, 2, 4, 8, 16, 20)}


@pytest.mark.parametrize(
    ("rate", "facts", "tried", "chosen"),
    [
        (FASTER, {}, [1, 2, 4, 8, 16, 20], 20),
        ({1: 10.0, 2: 18.0, 4: 30.0, 8: 31.0, 16: 40.0}, {}, [1, 2, 4, 8], 4),
        (FASTER, {"holds": 8}, [1, 2, 4, 8], 8),
        (FASTER, {"holds": 7}, [1, 2, 4], 4),
        (FASTER, {"holds": 9, "fixed": 0.6, "copies": 0.1}, [1, 2, 4, 8], 8),
        (FASTER, {"holds": 7, "fixed": 0.6, "copies": 0.1}, [1, 2, 4], 4),
        (FASTER, {"holds": 9, "fixed": 0.4, "copies": 0.4}, [1], 1),
        (FASTER, {"jumps": 1}, [1], 1),
        (FASTER, {"jumps": 8}, [1, 2, 4, 8], 4),
        (FASTER, {"fails": 8}, [1, 2, 4, 8], 4),
        (FASTER, {"fails": 1}, [1], None),
        ({1: 1.0}, {}, [1], 1),
    ],
    ids=[
        "limit",
        "no-faster",
        "just-fits",
        "would-not-fit",
        "fits-beside-much-that-does-not-grow",
        "would-not-fit-beside-it",
        "cannot-tell-copies-from-what-grows",
        "one-nearly-fills-it",
        "needs-more-than-it-seemed",
        "fails",
        "nothing-fits",
        "one",
    ],
)
def test_sizes_are_doubled_while_they_fit_and_pay(
    rate: dict[int, float], facts: dict[str, Any], tried: list[int], chosen: int | None
) -> None:
    assert machine(rate=rate, **facts) == (tried, chosen)


class Lengths:
    """Examples of known lengths."""

    def __init__(self, lengths: list[int]) -> None:
        self._lengths = np.array(lengths)

    def __len__(self) -> int:
        return len(self._lengths)

    def lengths(self, indices: Integers) -> Integers:
        return self._lengths[indices]

    def batch(self, indices: Integers, epochs: Integers) -> Batch:
        raise NotImplementedError


def test_the_longest_examples_are_found_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troika_trainer.microbatch.LOOKED_AT_ONCE", 3)
    examples = Lengths([5, 1, 9, 2, 8, 3, 7, 4])
    assert longest(examples, among=8, count=3).tolist() == [6, 4, 2]
    assert longest(examples, among=5, count=3).tolist() == [0, 4, 2]
    assert sorted(longest(examples, among=8).tolist()) == list(range(8))


def kept(directory: Path, *, size: int = 1, divisor: int = 1) -> Kept:
    place = Place(world_size=size, micro_batch_divisor=divisor)
    run = pretrain_run(directory, training={"sharding": "FSDP"})
    return Kept.of(directory, Group(place, torch.device("cpu")), RUN.validate_python(run).training)


def test_a_size_is_kept_for_the_machine_that_it_was_found_on(tmp_path: Path) -> None:
    assert kept(tmp_path, size=4).read() is None
    kept(tmp_path, size=4).write(16)
    kept(tmp_path, size=2).write(8)
    assert [kept(tmp_path, size=size).read() for size in (4, 2, 8)] == [16, 8, None]
    assert json.loads((tmp_path / "micro-batch.json").read_text()) == {
        "CPU, FSDP over 4": 16,
        "CPU, FSDP over 2": 8,
    }


def test_the_operators_divisor_applies_once(tmp_path: Path) -> None:
    kept(tmp_path).write(16)
    assert kept(tmp_path, divisor=4).read() == 4
    kept(tmp_path, divisor=4).write(2)  # halved on top
    assert kept(tmp_path, divisor=4).read() == 2
    assert kept(tmp_path, divisor=32).read() == 1


def test_a_file_that_cannot_be_read_is_no_size(tmp_path: Path) -> None:
    (tmp_path / "micro-batch.json").write_text("{")
    assert kept(tmp_path).read() is None
    kept(tmp_path).write(4)
    assert kept(tmp_path).read() == 4


def test_where_ranks_cannot_go_on_half_is_noted_and_the_launcher_restarts(tmp_path: Path) -> None:
    error = kept(tmp_path).shrunk(8, "in training")
    assert isinstance(error, ShrunkError)
    assert kept(tmp_path).read() == 4
    found = verdict(error)
    assert (found.failure, found.exit_code) == (FailureClass.OUT_OF_MEMORY, EXIT_CRASH)
    last = verdict(kept(tmp_path).shrunk(1, "in training"))
    assert last.exit_code != EXIT_CRASH
    assert "with one sequence at a time" in last.message
    assert last.remedy


def test_auto_finds_a_size_once_and_trains_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train_here(pretrain_run(tmp_path / "whole"))
    auto = pretrain_run(tmp_path / "auto", training={"microBatchSize": "Auto", "steps": 12})
    with caplog.at_level(logging.INFO):
        found = train_here(auto)
        train_here(auto, place=Place(attempt=1))
    assert found.losses == pytest.approx(whole.losses, abs=2e-5)
    lines = [record for record in caplog.records if record.message == "micro-batch size found"]
    assert len(lines) == 1
    file = tmp_path / "auto" / "checkpoints" / "cache" / "micro-batch.json"
    assert json.loads(file.read_text()) == {"CPU": lines[0].sequences}  # type: ignore[attr-defined]


@pytest.mark.timeout(120)
def test_what_a_stream_is_tried_on_is_of_its_first_window(tmp_path: Path) -> None:
    """It has no end: who looks for the longest of all its examples never comes back."""
    streamed = {"streaming": True, "shuffleWindow": 24}
    whole = train_here(pretrain_run(tmp_path / "whole", data=streamed))
    auto = {"microBatchSize": "Auto", "compile": "Auto"}
    run = pretrain_run(tmp_path / "tried", data=streamed, training=auto)

    def stop_in_step_8(step: int, stop: StopSignal) -> None:
        stop.requested = step == 8

    with pytest.raises(TerminatedError):
        train_here(run, after_step=stop_in_step_8)
    for note in (tmp_path / "tried/checkpoints/cache").glob("*.json"):
        note.unlink()  # as on another machine: tried again, and then the stream goes on in step 10
    rest = train_here(run, place=Place(attempt=1))
    assert rest.losses == pytest.approx(whole.losses[9:], abs=2e-5)


@pytest.fixture
def full_above_three() -> Iterator[None]:
    handle = fill(above=3)
    yield
    handle.remove()


@pytest.mark.usefixtures("full_above_three")
def test_a_step_that_did_not_fit_is_made_again_as_if_it_had_been_smaller(tmp_path: Path) -> None:
    full = train_here(pretrain_run(tmp_path / "full", model={"config": DROPOUT}))
    small = {"model": {"config": DROPOUT}, "training": {"microBatchSize": 2}}
    assert full.losses == train_here(pretrain_run(tmp_path / "small", **small)).losses
    assert [step.step for step in full.steps] == list(range(1, 13))
    assert full.status.tokens == 12 * 8 * 32


@pytest.mark.usefixtures("full_above_three")
def test_a_later_attempt_begins_with_the_size_that_fitted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = pretrain_run(tmp_path, training={"steps": 2})
    train_here(run)
    assert "memory ran out: smaller micro-batches" in caplog.text
    caplog.clear()
    for path in (tmp_path / "checkpoints").glob("step-*"):
        path.rename(tmp_path / path.name)
    train_here(run, place=Place(attempt=1))
    assert "memory ran out" not in caplog.text


def test_an_evaluation_that_does_not_fit_is_made_in_halves(tmp_path: Path) -> None:
    calm = train_here(pretrain_run(tmp_path / "calm"))
    handle = fill(above=3, evaluating=True)
    try:
        full = train_here(pretrain_run(tmp_path / "full"))
    finally:
        handle.remove()
    assert full.losses == calm.losses
    assert full.scores == [pytest.approx(scores, rel=1e-6) for scores in calm.scores]


def test_one_sequence_that_does_not_fit_is_a_failure_with_a_remedy(tmp_path: Path) -> None:
    handle = fill(above=0)
    try:
        with pytest.raises(
            OutOfMemoryError, match=r"ran out in step 1, with one sequence"
        ) as caught:
            train_here(pretrain_run(tmp_path))
    finally:
        handle.remove()
    assert "training.sharding FSDP" in (caught.value.remedy or "")
