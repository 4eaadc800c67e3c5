"""A row of a stream that is bad: all ranks save what they reached, and end with the same words."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from support.disks import HERE
from support.histories import NO_DROPOUT, Runs
from support.nursery import Nursery
from support.trainer_launch import launching
from troika_api.contract import ExitCode

pytestmark = pytest.mark.slow

BAD_LINE = 1301
"""After the first thousand rows, which are tokenized together."""
GOOD = [json.dumps({"text": f"the {'cat' if row % 3 else 'dog'} {row % 7}"}) for row in range(1600)]
BAD = [*GOOD[: BAD_LINE - 1], "x" * len(GOOD[BAD_LINE - 1]), *GOOD[BAD_LINE:]]
"""As long as what is good: sizes do not tell."""


def write(path: Path, lines: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forked: Nursery) -> Runs:
    root = tmp_path_factory.mktemp("runs")
    return Runs(root, write(root / "corpus.jsonl", GOOD), forked)


def streamed(runs: Runs, name: str, train: Path) -> dict[str, Any]:
    """12 steps that need 1500 rows; windows end in the middle of steps."""
    tokenizer = runs.root / "tokenizer" / "model"
    if not tokenizer.exists():
        made = runs.run("tokenizer", training__steps=1, data__validation__fraction=0.5)
        runs.finish(made, "tokenizer")
    return runs.run(
        name,
        model__config=NO_DROPOUT,
        tokenizer={"path": str(tokenizer)},
        data__train={"uri": str(train)},
        data__validation={"uri": str(runs.corpus)},
        data__streaming=True,
        data__shuffleWindow=40,
        training__globalBatchSize=32,
        evaluation={"everySteps": 1, "maxSequences": 16},
        checkpoint__interval="1h",
    )


@pytest.fixture(scope="module")
def whole(runs: Runs) -> Runs:
    """With the run of two ranks that nothing went wrong with."""
    runs.finish(streamed(runs, "whole", runs.corpus), "whole", ranks=2)
    return runs


def check_word(word: dict[str, Any], at: Path) -> None:
    """It names the row and what to do about it."""
    assert word["failure"] == "BadData"
    named = f"{at}, line {BAD_LINE}: expected one JSON object a line"
    assert word["message"].startswith(named), word["message"]
    assert word["remedy"] == "write one object a line (JSON Lines)"


def step_saved(runs: Runs, name: str) -> int:
    """Of the only checkpoint: the clock is not due for an hour."""
    (saved,) = runs.steps(name)
    assert 2 <= saved < 12
    return saved


def check_as_if_nothing_had_been(runs: Runs, name: str) -> None:
    assert runs.history(name) == runs.history("whole")
    expected, found = runs.weights("whole"), runs.weights(name)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_pod_of_two_ranks_keeps_every_step_before_a_bad_row(whole: Runs, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.jsonl", BAD)
    run = streamed(whole, "bad", corpus)
    with launching(tmp_path / "launched") as launcher:
        pod = launcher.start(run, ranks=2)
        assert pod.wait() == ExitCode.BAD_DATA, pod.output()
        check_word(pod.word().model_dump(), corpus)
        saved = step_saved(whole, "bad")
        write(corpus, GOOD)
        pod = launcher.start(run, ranks=2, TROIKA_ATTEMPT="1")
        assert pod.wait() == ExitCode.OK, pod.output()
    assert {line["step"] for line in pod.lines("resumed")} == {saved}
    check_as_if_nothing_had_been(whole, "bad")


@pytest.mark.parametrize("damaged", [0, 1])
def test_a_row_that_is_bad_for_one_rank_only(whole: Runs, tmp_path: Path, damaged: int) -> None:
    """It is found while the other rank could go on; in the next attempt, in the first step."""
    for rank in range(2):
        write(tmp_path / str(rank) / "corpus.jsonl", BAD if rank == damaged else GOOD)
    disks = {"NURSERY_SETUP": "support.disks:of_environment", "DISKS": str(tmp_path)}
    name, corpus = f"damaged-{damaged}", HERE / "corpus.jsonl"
    run = streamed(whole, name, corpus)
    saved = []
    for attempt in "01":
        ranks = whole.start(run, name, ranks=2, TROIKA_ATTEMPT=attempt, **disks)
        codes = [rank.wait() for rank in ranks]
        assert codes == [ExitCode.BAD_DATA] * 2, ranks[0].log.read_text()[-3000:]
        for one in ranks:
            check_word(one.word(), corpus)
        saved.append(step_saved(whole, name))
    write(tmp_path / str(damaged) / "corpus.jsonl", GOOD)
    first, _ = whole.finish(run, name, ranks=2, TROIKA_ATTEMPT="2", **disks)
    (resumed,) = [line for line in first.lines() if line.get("message") == "resumed"]
    assert [*saved, resumed["step"]] == [resumed["step"]] * 3
    check_as_if_nothing_had_been(whole, name)
