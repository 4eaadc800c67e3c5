"""Whole runs on a stream: they stop and go on as others do; what a stream cannot be is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.language_tasks import BART, T5
from support.streams import write_corpus
from support.trainer_runs import TINY_BERT, pretrain_run, train_here
from troika_trainer.errors import ConfigError, DataError, TerminatedError
from troika_trainer.place import Place
from troika_trainer.runfile import read_run
from troika_trainer.shutdown import StopSignal

STREAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "masks": ("MaskedLM", {**TINY_BERT, "hidden_dropout_prob": 0.2}),
    "spans": ("Denoising", {"model_type": "t5", **T5, "num_layers": 1, "dropout_rate": 0.2}),
    "infilling": (
        "Denoising",
        {
            "model_type": "bart",
            **BART,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "max_position_embeddings": 64,
            "dropout": 0.2,
        },
    ),
}
"""Objectives that draw their noise by the number of a sequence, in a stream too."""


def stream_changes(folder: Path) -> dict[str, Any]:
    corpus = {"uri": write_corpus(folder / "corpus"), "format": "Auto"}
    return {
        "data": {"train": corpus, "streaming": True, "shuffleWindow": 24},
        "training": {"steps": 14},
        "evaluation": {"everySteps": 7, "maxSequences": 16},
    }


def streamed_run(folder: Path, name: str, kind: str) -> dict[str, Any]:
    """A run of one of the kinds that learn from noise, on the corpus of three files."""
    objective, config = STREAMED[kind]
    run = pretrain_run(folder / name, objective=objective, **stream_changes(folder))
    run["model"] = {"config": config}
    run["tokenizer"]["train"]["vocabSize"] = 500
    return run


@pytest.mark.parametrize("kind", STREAMED)
def test_a_streamed_run_that_was_stopped_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, kind: str
) -> None:
    whole = train_here(streamed_run(tmp_path, "whole", kind))
    assert whole.scores[-1]["loss"] < whole.scores[0]["loss"]

    def stop_in_step_8(step: int, stop: StopSignal) -> None:
        stop.requested = step == 8

    run = streamed_run(tmp_path, "cut", kind)
    with pytest.raises(TerminatedError):
        train_here(run, after_step=stop_in_step_8)
    rest = train_here(run, place=Place(attempt=1))
    assert rest.status.first_step == 10
    assert rest.losses == whole.losses[9:]
    assert rest.scores[-1] == whole.scores[-1]
    kept = {path.name.partition("-")[0] for path in (tmp_path / "cut/checkpoints/cache").iterdir()}
    assert kept <= {"tokenizer", ".tokenizer"}, "no tokens on the disk"


def test_a_bad_row_late_in_a_stream_costs_no_step_once_it_is_corrected(tmp_path: Path) -> None:
    good = [json.dumps({"text": f"{number} ok"}) for number in range(1500)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(good))
    (tmp_path / "held.jsonl").write_text("\n".join(good[:100]))
    changes = stream_changes(tmp_path)
    held = {"uri": str(tmp_path / "held.jsonl"), "format": "Auto", "fraction": None}
    train = {"uri": str(corpus), "format": "Auto"}
    changes["data"] |= {"train": train, "validation": held, "sequenceLength": 8}
    changes |= {"training": {"steps": 130}, "checkpoint": {"interval": "1h"}}
    train_here(pretrain_run(tmp_path / "first", **{**changes, "training": {"steps": 1}}))
    changes["tokenizer"] = {"train": None, "path": str(tmp_path / "first" / "model")}
    whole = train_here(pretrain_run(tmp_path / "whole", **changes))

    corpus.write_text("\n".join([*good[:1300], "{oops", *good[1301:]]))
    run = pretrain_run(tmp_path / "cut", **changes)
    with pytest.raises(DataError, match="line 1301: expected one JSON object"):
        train_here(run)
    corpus.write_text("\n".join(good))
    rest = train_here(run, place=Place(attempt=1))
    first = rest.status.first_step
    assert first is not None
    assert 20 < first < 130
    assert rest.losses == whole.losses[first - 1 :]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"steps": None, "epochs": 2}}, "a stream has no epochs"),
        ({"objective": "MaskedImage"}, "data.streaming reads text"),
        ({"data": {"shuffleWindow": 4}}, "shuffleWindow 4 must be at least globalBatchSize 8"),
        ({"data": {"streaming": False, "shuffleWindow": 64}}, "read with data.streaming only"),
    ],
)
def test_what_a_stream_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run = pretrain_run(tmp_path, data={"streaming": True})
    for part, values in changes.items():
        run[part] = {**run[part], **values} if isinstance(values, dict) else values
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(ConfigError, match=message):
        read_run(tmp_path / "run.json")
