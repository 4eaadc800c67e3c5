"""A run that was stopped and resumed is the run that was not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from support import tinyrun
from support.histories import NO_DROPOUT, Runs
from support.nursery import Nursery
from troika_api.contract import ExitCode
from troika_api.term import Term

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinyrun.write_corpus(tmp_path_factory.mktemp("corpus") / "train.jsonl")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, corpus: Path, forked: Nursery) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"), corpus, forked)


def test_one_rank_bit_for_bit_with_dropout(runs: Runs) -> None:
    runs.finish(runs.run("whole"), "whole")
    run = runs.run("parts")
    runs.stop_at(run, "parts", step=5)
    runs.finish(run, "parts")
    assert runs.history("parts") == runs.history("whole")
    whole, parts = runs.weights("whole"), runs.weights("parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.fixture(scope="module")
def plain(runs: Runs) -> list[float]:
    """The run of one rank without dropout, uninterrupted."""
    runs.finish(runs.run("plain", model__config=NO_DROPOUT), "plain")
    return runs.history("plain")


@pytest.mark.parametrize(("before", "after"), [(2, 2), (1, 2), (2, 1)])
def test_more_ranks_and_other_numbers_of_ranks(
    runs: Runs, plain: list[float], before: int, after: int
) -> None:
    name = f"from-{before}-to-{after}"
    run = runs.run(name, model__config=NO_DROPOUT)
    runs.stop_at(run, name, step=5, ranks=before)
    runs.finish(run, name, ranks=after, TROIKA_ATTEMPT="1")
    tolerance = 1e-5 if before == after else 1e-4
    assert runs.history(name) == pytest.approx(plain, abs=tolerance)
    seen = tinyrun.run_dict(runs.root / name, runs.corpus)  # the same tokens, in the same order
    manifest = Path(seen["checkpoint"]["uri"]) / "step-12" / "manifest.json"
    assert json.loads(manifest.read_text())["progress"]["tokens"] == 12 * 8 * 16


def test_a_job_that_is_made_anew_goes_on_from_the_checkpoints_of_the_one_before(
    runs: Runs,
) -> None:
    """Its attempts begin at 0 again; the pods of the job that was deleted may not come back."""
    old = Term.of("2026-11-24T08:00:00Z", "ffffffff", 2)
    new = Term.of("2026-11-24T08:00:05Z", "00000000", 0)
    run = runs.run("anew")
    saved = runs.stop_at(run, "anew", step=5, TROIKA_ATTEMPT="2", TROIKA_TERM=str(old))
    (rank,) = runs.finish(run, "anew", TROIKA_ATTEMPT="0", TROIKA_TERM=str(new))
    (resumed,) = [line for line in rank.lines() if line.get("message") == "resumed"]
    assert (resumed["step"], resumed["from"]) == (saved, str(old))
    (late,) = runs.start(run, "anew", TROIKA_ATTEMPT="2", TROIKA_TERM=str(old))
    assert late.wait() == ExitCode.BAD_CONFIG
    assert "the job created at 2026-11-24 08:00:05 UTC" in late.word()["message"]
    assert late.word()["remedy"] == "give each job a checkpoint.uri of its own"


def test_two_ranks_with_dropout(runs: Runs) -> None:
    """Noise is drawn per rank: on as many ranks as before it is the same noise."""
    runs.finish(runs.run("noisy"), "noisy", ranks=2)
    run = runs.run("noisy-parts")
    runs.stop_at(run, "noisy-parts", step=5, ranks=2)
    runs.finish(run, "noisy-parts", ranks=2, TROIKA_ATTEMPT="1")
    assert runs.history("noisy-parts") == pytest.approx(runs.history("noisy"), abs=1e-5)


@pytest.mark.parametrize(("before", "after", "tolerance"), [(1, 1, 0.0), (2, 1, 1e-4)])
def test_a_stream(runs: Runs, before: int, after: int, tolerance: float) -> None:
    """Windows of two steps: the run stops in the middle of one."""
    changes = {
        "model__config": NO_DROPOUT,
        "data__streaming": True,
        "data__shuffleWindow": 16,
        "evaluation": {"everySteps": 1, "maxSequences": 16},
    }
    if not (runs.root / "stream").exists():
        runs.finish(runs.run("stream", **changes), "stream")
    name = f"stream-{before}-{after}"
    run = runs.run(name, **changes)
    runs.stop_at(run, name, step=5, ranks=before)
    runs.finish(run, name, ranks=after, TROIKA_ATTEMPT="1")
    assert runs.history(name) == pytest.approx(runs.history("stream"), abs=tolerance)
    if before == after:
        whole, parts = runs.weights("stream"), runs.weights(name)
        assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_packed_rows(runs: Runs) -> None:
    """The order of the rows, and the masks in them, do not depend on the number of ranks."""
    changes = {"model__config": NO_DROPOUT, "data__packing": True, "data__sequenceLength": 60}
    runs.finish(runs.run("packed", **changes), "packed")
    run = runs.run("packed-parts", **changes)
    runs.stop_at(run, "packed-parts", step=5, ranks=2)
    runs.finish(run, "packed-parts", TROIKA_ATTEMPT="1")
    assert runs.history("packed-parts") == pytest.approx(runs.history("packed"), abs=1e-4)


def test_the_best_checkpoint_of_a_finetune_run_survives_a_stop(runs: Runs) -> None:
    runs.finish(runs.run("base", training__steps=2, evaluation__everySteps=2), "base")
    rows = runs.root / "labelled.jsonl"
    texts = [json.loads(line)["text"] for line in runs.corpus.read_text().splitlines()]
    rows.write_text(
        "\n".join(json.dumps({"text": text, "label": "cat" in text}) for text in texts[:120])
    )

    def finetune(name: str) -> dict[str, Any]:
        run = tinyrun.run_dict(runs.root / name, rows)
        for key in ("objective", "tokenizer", "evaluation"):
            del run[key]
        run |= {
            "kind": "FinetuneJob",
            "task": "TextClassification",
            "model": {"path": str(runs.root / "base" / "model")},
            "evaluation": {"bestBy": "accuracy"},
            "data": {
                "train": {"uri": str(rows)},
                "validation": {"fraction": 0.3},
                "maxLength": 64,
            },
        }
        run["training"] |= {"epochs": 6, "steps": None}
        run["checkpoint"]["interval"] = "1h"
        return run

    runs.finish(finetune("tuned"), "tuned")
    run = finetune("tuned-parts")
    runs.stop_at(run, "tuned-parts", step=2, of=50)
    runs.finish(run, "tuned-parts")
    reports = [
        json.loads((runs.root / name / "model" / "report.json").read_text())
        for name in ("tuned", "tuned-parts")
    ]
    assert reports[0]["history"] == reports[1]["history"]
    assert reports[0]["evaluation"] == reports[1]["evaluation"]
    whole, parts = runs.weights("tuned"), runs.weights("tuned-parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
