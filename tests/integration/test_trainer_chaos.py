"""Kills and damage: a few of `make chaos-trainer`, in every run of the tests, and on two ranks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chaos.killing import Chaos
from support import tinyrun
from support.histories import Runs
from support.nursery import Nursery
from support.waiting import wait_until

pytestmark = pytest.mark.slow

DEADLINE = 120.0
TRIES = 10


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forked: Nursery) -> Runs:
    corpus = tinyrun.write_corpus(tmp_path_factory.mktemp("corpus") / "train.jsonl")
    return Runs(tmp_path_factory.mktemp("runs"), corpus, forked)


def test_killed_at_random_moments_the_weights_are_the_same(tmp_path: Path, forked: Nursery) -> None:
    chaos = Chaos(tmp_path, steps=60, save_every=5, nursery=forked, seed=17)
    outcome = chaos.run(kills=4)
    assert len(outcome.kills) == 4
    assert outcome.in_save > 0
    assert outcome.in_export > 0
    assert outcome.resumed > 0
    assert not outcome.lost
    assert outcome.equal
    assert outcome.history_equal


def until(holds: Callable[[], bool], what: str, ranks: list[tinyrun.Rank]) -> None:
    """Wait for something that happens while all ranks live."""

    def told() -> str:
        return ranks[0].log.read_text()[-2000:]

    def look() -> bool:
        if holds():
            return True
        assert all(rank.process.poll() is None for rank in ranks), told()
        return False

    wait_until(look, what, seconds=DEADLINE, every=0.001, seen=told)


def resumed_at(ranks: list[tinyrun.Rank]) -> int:
    """Step that the ranks went on from, as the first one tells."""
    (step,) = [line["step"] for line in ranks[0].lines() if line["message"] == "resumed"]
    return int(step)


def same_weights(runs: Runs, left: str, right: str) -> bool:
    one, other = runs.weights(left), runs.weights(right)
    assert one.keys() == other.keys()
    return all(torch.allclose(one[name], other[name], rtol=0, atol=1e-5) for name in one)


def of_many_saves(runs: Runs, name: str, sharding: str) -> dict[str, Any]:
    return runs.run(
        name,
        training__sharding=sharding,
        training__steps=60,
        checkpoint__interval="3steps",
        evaluation__everySteps=30,
    )


@pytest.mark.parametrize(("sharding", "victim"), [("None", 0), ("FSDP", 1)])
def test_a_rank_that_is_killed_in_a_save_costs_the_others_nothing(
    runs: Runs, sharding: str, victim: int
) -> None:
    """What the launcher does then: the other rank is ended too, and both start again."""
    calm, wild = f"calm-{sharding}", f"wild-{sharding}"
    runs.finish(of_many_saves(runs, calm, sharding), calm, ranks=2)
    run = of_many_saves(runs, wild, sharding)
    checkpoints = runs.root / wild / "checkpoints"

    def half_written() -> set[str]:
        return {path.name for path in checkpoints.glob("step-*.tmp-*")}

    def newest() -> int:
        names = {path.name for path in checkpoints.glob("step-*")} - half_written()
        return max(
            (int(name.removeprefix("step-")) for name in names if "." not in name), default=0
        )

    hit = False
    for _ in range(TRIES):
        ranks = runs.start(run, wild, ranks=2)
        until(lambda: newest() > 0 and bool(half_written()), "a save after a committed one", ranks)
        ranks[victim].kill()
        assert ranks[victim].wait() == -9
        ranks[1 - victim].kill()
        ranks[1 - victim].wait()
        if hit := bool(half_written()):
            break
    assert hit, "every save was faster than the kill"
    kept = newest()
    ranks = runs.finish(run, wild, ranks=2)
    assert resumed_at(ranks) == kept
    assert kept < 60
    assert not half_written()
    assert same_weights(runs, wild, calm)


@pytest.mark.parametrize("part", ["__0_0.distcp", "__1_0.distcp"])
def test_damage_in_the_part_of_one_rank_sends_all_to_the_older_checkpoint(
    runs: Runs, part: str
) -> None:
    """The ranks share the reading: one alone sees the damage."""
    name, changes = f"damaged-{part}", {"training__sharding": "FSDP"}
    if not (runs.root / "sound").exists():
        runs.finish(runs.run("sound", **changes), "sound", ranks=2)
    run = runs.run(name, checkpoint__interval="2steps", **changes)
    newest = runs.stop_at(run, name, step=5, ranks=2)
    older = max(step for step in runs.steps(name) if step < newest)
    file = runs.root / name / "checkpoints" / f"step-{newest}" / part
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    ranks = runs.finish(run, name, ranks=2)
    assert resumed_at(ranks) == older
    warned = [
        [line["message"] for line in rank.lines() if "checkpoint skipped" in line["message"]]
        for rank in ranks
    ]
    assert sum(map(len, warned)) == 1
    assert part in json.dumps(warned)
    assert runs.history(name) == pytest.approx(runs.history("sound"), abs=1e-5)
    assert same_weights(runs, name, "sound")
