"""Whole runs in this process: the same numbers whatever is cut, stopped or shared differently."""

import json
import math
import shutil
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from support.trainer_runs import TINY_GPT, finetune_run, pretrain_run, train_here
from troika_api.contract import Stage
from troika_trainer.batch import Batch
from troika_trainer.batches import Batches
from troika_trainer.errors import ConfigError, DataError, NonFiniteError, TerminatedError
from troika_trainer.place import Place
from troika_trainer.shutdown import StopSignal


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    train_here(pretrain_run(folder))
    return folder / "model"


def test_a_masked_language_model_learns_and_can_be_loaded(tmp_path: Path) -> None:
    seen = train_here(pretrain_run(tmp_path))
    assert [scores["loss"] for scores in seen.scores] == sorted(
        (scores["loss"] for scores in seen.scores), reverse=True
    )
    assert len(seen.scores) == 3, "at step 0, 6 and 12"
    assert seen.status.stage is Stage.DONE
    assert seen.status.tokens == 12 * 8 * 32
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.model_max_length == 32
    guesses = pipeline("fill-mask", model=model, tokenizer=tokenizer)("the [MASK] of the work")
    assert len(guesses) == 5


def test_a_causal_language_model_learns_and_can_be_loaded(tmp_path: Path) -> None:
    run = pretrain_run(
        tmp_path,
        objective="CausalLM",
        model={"config": None},
        tokenizer={"train": {"vocabSize": 300, "lowercase": None}},
    )
    run["model"]["config"] = TINY_GPT
    seen = train_here(run)
    assert seen.scores[-1]["loss"] < seen.scores[0]["loss"] - 0.2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert tokenizer.decode(tokenizer("You may reproduce")["input_ids"]) == "You may reproduce"
    assert model.config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize(("micro", "packing"), [(1, False), (3, False), (4, False), (3, True)])
def test_accumulation_gives_the_loss_of_one_large_batch(
    tmp_path: Path, micro: int, packing: bool
) -> None:
    data, cut = {"packing": packing}, {"microBatchSize": micro}
    whole = train_here(pretrain_run(tmp_path / "whole", data=data))
    parts = train_here(pretrain_run(tmp_path / "parts", data=data, training=cut))
    assert parts.losses == pytest.approx(whole.losses, abs=2e-5)
    assert parts.scores[-1]["loss"] == pytest.approx(whole.scores[-1]["loss"], abs=2e-5)


def test_a_shrunken_micro_batch_changes_nothing_but_memory(tmp_path: Path) -> None:
    whole = train_here(pretrain_run(tmp_path / "whole"))
    small = train_here(pretrain_run(tmp_path / "small"), place=Place(micro_batch_divisor=4))
    assert small.losses == pytest.approx(whole.losses, abs=2e-5)


def test_the_same_run_gives_the_same_numbers_dropout_included(tmp_path: Path) -> None:
    dropout = {"model": {"config": {"hidden_dropout_prob": 0.2}}}
    first = train_here(pretrain_run(tmp_path / "first", **dropout))
    second = train_here(pretrain_run(tmp_path / "second", **dropout))
    assert first.losses == second.losses


@pytest.mark.parametrize("packing", [False, True], ids=["joined", "packed"])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, packing: bool) -> None:
    dropout = {
        "model": {"config": {"hidden_dropout_prob": 0.2}},
        "data": {"packing": packing},
    }
    whole = train_here(pretrain_run(tmp_path / "whole", **dropout))

    def stop_in_step_7(step: int, stop: StopSignal) -> None:
        stop.requested = step == 7

    run = pretrain_run(tmp_path / "cut", **dropout)
    with pytest.raises(TerminatedError, match="stopped and saved at step 8"):
        train_here(run, after_step=stop_in_step_7)
    rest = train_here(run, place=Place(attempt=1))
    assert rest.status.first_step == 9
    assert rest.losses == whole.losses[8:]
    assert rest.scores[-1] == whole.scores[-1]
    assert rest.status.tokens == whole.status.tokens


def test_a_resumed_run_builds_the_batches_that_are_left_however_many_there_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    step_of = Batches.step

    def noting(self: Batches, step: int) -> list[Batch]:
        asked.append(step)
        return step_of(self, step)

    monkeypatch.setattr(Batches, "step", noting)
    for stop_at in (2, 9):
        run = pretrain_run(tmp_path / str(stop_at), checkpoint={"interval": "1h"})

        def stop(step: int, signal: StopSignal, last: int = stop_at) -> None:
            signal.requested = step == last

        with pytest.raises(TerminatedError):
            train_here(run, after_step=stop)
        asked.clear()
        train_here(run, place=Place(attempt=1))
        first = stop_at + 2  # the step in which all ranks agree is the last one
        assert asked == list(range(first, 14)), "and the one ahead"


def test_early_stopping_counts_on_where_it_was(tmp_path: Path, pretrained: Path) -> None:
    changes = {
        "training": {"epochs": 30},
        "evaluation": {"bestBy": "accuracy", "patience": 2},  # nothing is better than all right
    }
    whole = train_here(finetune_run(tmp_path / "whole", model=pretrained, **changes))
    end = whole.status.step
    assert end < 180, "it has stopped early"

    def stop_while_it_waits(step: int, stop: StopSignal) -> None:
        stop.requested = step == end - 4

    run = finetune_run(tmp_path / "parts", model=pretrained, **changes)
    with pytest.raises(TerminatedError):
        train_here(run, after_step=stop_while_it_waits)
    rest = train_here(run, place=Place(attempt=1))
    assert rest.status.step == end
    assert rest.losses == whole.losses[-len(rest.losses) :]
    reports = [
        json.loads((tmp_path / name / "model" / "report.json").read_text())
        for name in ("whole", "parts")
    ]
    assert reports[0]["evaluation"] == reports[1]["evaluation"]
    assert reports[0]["history"] == reports[1]["history"]


def test_a_run_of_one_epoch_has_a_best_step_and_an_early_end(
    tmp_path: Path, pretrained: Path
) -> None:
    """At a rate of 10 nothing gets better for long."""
    run = finetune_run(
        tmp_path,
        model=pretrained,
        training={"epochs": 1, "optimizer": {"learningRate": 10.0}},
        evaluation={"bestBy": "loss", "everySteps": 1, "patience": 2},
    )
    seen = train_here(run)
    assert seen.status.epoch is not None
    assert seen.status.epoch < 1.0
    report = json.loads((tmp_path / "model" / "report.json").read_text())
    losses = {int(entry["step"]): entry["loss"] for entry in report["history"]}
    best = min(losses, key=lambda step: losses[step])
    assert report["evaluation"]["bestStep"] == best < seen.status.step
    assert list(losses) == list(range(1, best + 3)), "measured every step until patience ended"


def test_a_run_that_was_complete_only_exports_again(tmp_path: Path) -> None:
    run = pretrain_run(tmp_path)
    train_here(run)
    again = train_here(run, place=Place(attempt=1))
    assert again.losses == []
    assert again.status.stage is Stage.DONE


def test_numbers_that_run_away_end_the_run_before_they_are_applied(
    tmp_path: Path, pretrained: Path
) -> None:
    poisoned = tmp_path / "poisoned"
    shutil.copytree(pretrained, poisoned)
    weights = load_file(poisoned / "model.safetensors")
    weights["bert.embeddings.LayerNorm.weight"] *= math.inf
    save_file(weights, poisoned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteError, match=r"step 1: loss \S+, gradient norm"):
        train_here(finetune_run(tmp_path, model=poisoned))


def test_a_validation_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    run = pretrain_run(tmp_path)
    run["model"]["config"] = {**run["model"]["config"], "initializer_range": 1e18}
    with pytest.raises(NonFiniteError, match="step 0: the loss on the validation split is") as told:
        train_here(run)
    assert "data.validation" in str(told.value.remedy)


def test_a_classifier_learns_reports_on_test_and_keeps_its_best(
    tmp_path: Path, pretrained: Path
) -> None:
    seen = train_here(finetune_run(tmp_path, model=pretrained, training={"epochs": 8}))
    assert len(seen.scores) == 8
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert model.config.id2label == {0: "bad", 1: "good"}
    report = (tmp_path / "model" / "report.txt").read_text()
    assert "confusion matrix" in report
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
    assert classify("a fine and moving film")[0]["label"] == "good"
    assert classify("a dull and empty film")[0]["label"] == "bad"
    card = (tmp_path / "model" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert "type: accuracy" in card


def test_the_exported_classifier_is_the_best_one_not_the_last(
    tmp_path: Path, pretrained: Path
) -> None:
    run = finetune_run(
        tmp_path,
        model=pretrained,
        training={"epochs": 3, "schedule": {"type": "Constant"}},
        checkpoint={"keep": 1},
        evaluation={"bestBy": "loss"},
    )
    run["training"]["optimizer"]["learningRate"] = 0.3  # far too high: it gets worse again
    seen = train_here(run)
    losses = [scores["loss"] for scores in seen.scores]
    best = 6 * (1 + losses.index(min(losses)))
    kept = {path.name for path in (tmp_path / "checkpoints").glob("step-*")}
    assert kept == {f"step-{best}", "step-18"}
    report = (tmp_path / "model" / "report.json").read_text()
    assert f'"bestStep": {best}' in report


def test_a_damaged_best_checkpoint_does_not_keep_a_run_from_its_end(
    tmp_path: Path, pretrained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = finetune_run(
        tmp_path,
        model=pretrained,
        training={"epochs": 8},
        checkpoint={"keep": 1},
        evaluation={"bestBy": "accuracy"},
    )
    train_here(run)
    written = tmp_path / "model" / "report.json"
    best = json.loads(written.read_text())["evaluation"]["bestStep"]
    assert best != 48, "all are told apart before the end"
    victim = tmp_path / "checkpoints" / f"step-{best}" / "manifest.json"
    victim.write_text("{}")
    train_here(run, place=Place(attempt=1))
    report = json.loads(written.read_text())
    assert report["evaluation"]["bestStep"] == 48
    told = f"of step 48: the checkpoint of the best, step {best}, was damaged"
    assert report["environment"]["Weights"] == told
    assert str(victim) in caplog.text


def test_pairs_of_texts_are_told_apart(tmp_path: Path, pretrained: Path) -> None:
    run = finetune_run(
        tmp_path,
        model=pretrained,
        data={"columns": {"textPair": "label"}},
        training={"epochs": 8},
    )
    seen = train_here(run)
    assert seen.scores[-1]["accuracy"] == 1.0, "the answer stands in the second text"


def test_text_longer_than_the_model_is_refused_in_pretraining(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train_here(pretrain_run(tmp_path, data={"sequenceLength": 64}))
    assert (
        str(caught.value) == "data.sequenceLength 64 is longer than the 32 positions of the model"
    )
    assert caught.value.remedy is not None


def test_too_little_text_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("one short line\nanother line\n")
    run = pretrain_run(tmp_path, data={"train": {"uri": str(text)}})
    run["data"]["validation"] = {"uri": str(text), "format": "Text"}
    with pytest.raises(DataError, match=r"the train split has \d+ tokens, fewer than one sequence"):
        train_here(run)


def test_the_model_goes_to_any_file_system(tmp_path: Path) -> None:
    run = pretrain_run(tmp_path, training={"steps": 1}, output={"uri": "memory://models/tiny"})
    train_here(run)
    filesystem = fsspec.filesystem("memory")
    names = {path.rpartition("/")[2] for path in filesystem.ls("/models/tiny", detail=False)}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names


@pytest.mark.parametrize("kept", [[], ["notes.txt"]], ids=["alone", "beside other files"])
def test_a_second_run_replaces_the_model_of_the_first(tmp_path: Path, kept: list[str]) -> None:
    model = tmp_path / "model"
    train_here(pretrain_run(tmp_path, training={"steps": 1}))
    written = {path.name for path in model.iterdir()}
    for name in kept:
        (model / name).write_text("mine")
    train_here(
        pretrain_run(tmp_path, training={"steps": 2}, checkpoint={"uri": str(tmp_path / "c")})
    )
    assert '"steps": 2' in (model / "report.json").read_text()
    assert {path.name for path in model.iterdir()} == written | {*kept}
    assert [path.name for path in tmp_path.glob(".model*")] == []
