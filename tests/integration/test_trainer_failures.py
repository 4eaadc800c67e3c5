"""What goes wrong ends in a class of the contract and a helpful sentence; nothing is half-done."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from support import tinyrun
from support.nursery import Nursery
from troika_api.contract import ExitCode

pytestmark = pytest.mark.slow

RUN_AWAY = "support.runaway:of_environment"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return tinyrun.write_corpus(tmp_path / "train.jsonl", rows=200)


def fail(run: dict[str, Any], root: Path, forked: Nursery, code: ExitCode, **more: Any) -> Any:
    """Run it; returns the last word of the first rank."""
    ranks = tinyrun.start(run, root, nursery=forked, **more)
    assert {rank.wait() for rank in ranks} == {code}, ranks[0].log.read_text()[-3000:]
    word = ranks[0].word()
    assert word["remedy"]
    assert not (root / "model").exists()
    assert not list(root.rglob("*tmp*"))
    return word


def finetune_run(root: Path, rows: Path, model: Path) -> dict[str, Any]:
    run = tinyrun.run_dict(root, rows)
    for key in ("objective", "tokenizer", "evaluation"):
        del run[key]
    run |= {"kind": "FinetuneJob", "task": "TextClassification", "model": {"path": str(model)}}
    run["data"]["maxLength"] = 64
    del run["data"]["sequenceLength"]
    return run


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, forked: Nursery) -> Path:
    """A pretrained model whose tokenizer knows the letter z from a single row.

    Its head has weights of its own: what an embedding holds matters where its token is.
    """
    root = tmp_path_factory.mktemp("base")
    corpus = tinyrun.write_corpus(root / "train.jsonl", rows=200)
    with corpus.open("a") as file:
        file.write(json.dumps({"text": "zzz " * 4}) + "\n")
    config = {**tinyrun.CONFIG, "tie_word_embeddings": False}
    run = tinyrun.run_dict(root, corpus, training__steps=2, model__config=config)
    assert tinyrun.start(run, root, nursery=forked)[0].wait() == 0
    return root


@pytest.mark.parametrize(("ranks", "sharding"), [(1, "None"), (2, "None"), (2, "FSDP")])
def test_numbers_that_run_away(
    base: Path, tmp_path: Path, forked: Nursery, ranks: int, sharding: str
) -> None:
    poisoned = tmp_path / "poisoned"
    subprocess.run(["cp", "-r", base / "model", poisoned], check=True)
    weights = load_file(poisoned / "model.safetensors")
    letter = AutoTokenizer.from_pretrained(poisoned).convert_tokens_to_ids("z")
    weights["bert.embeddings.word_embeddings.weight"][letter] = float("inf")
    save_file(weights, poisoned / "model.safetensors", metadata={"format": "pt"})

    run = tinyrun.run_dict(
        tmp_path / "run",
        base / "train.jsonl",
        model={"path": str(poisoned)},
        tokenizer={"path": str(poisoned)},
        training__steps=200,
        training__microBatchSize=1,
        training__sharding=sharding,
        checkpoint__interval="1steps",
        evaluation__everySteps=200,
        data__validation={"uri": str(tinyrun.write_corpus(tmp_path / "other.jsonl", rows=50))},
    )
    word = fail(run, tmp_path / "run", forked, ExitCode.NON_FINITE, ranks=ranks)
    assert word["failure"] == "NonFinite"
    step = word["status"]["step"]
    assert word["message"].startswith(f"step {step + 1}: loss nan")
    assert "the loss ran away on rank " in word["message"]
    assert "(batch " in word["message"]
    loss = word["status"]["loss"]
    assert f"step {step} was the last finite one: loss {loss:.5g}, grad" in word["message"]
    # Nothing of that step was applied, and the one before it is safe.
    assert (tmp_path / "run" / "checkpoints" / f"step-{step}" / "manifest.json").exists()
    assert not (tmp_path / "run" / "checkpoints" / f"step-{step + 1}").exists()


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_the_rank_whose_numbers_run_away_is_named_by_all(
    corpus: Path, tmp_path: Path, forked: Nursery, where: str
) -> None:
    """Four micro-batches a rank and step: the tenth is the second one of step 3.

    Copies make a pass before the first step, to see which gradients there will be.
    """
    named = set()
    for sharding, before in (("None", 1), ("FSDP", 0)):
        root = tmp_path / sharding
        run = tinyrun.run_dict(
            root,
            corpus,
            training__sharding=sharding,
            training__microBatchSize=1,
            checkpoint__interval="1steps",
        )
        after = {"RUNAWAY_RANK": "1", "RUNAWAY_IN": where, "RUNAWAY_AFTER": str(9 + before)}
        ranks = tinyrun.start(run, root, nursery=forked, ranks=2, NURSERY_SETUP=RUN_AWAY, **after)
        codes = [rank.wait() for rank in ranks]
        assert codes == [ExitCode.NON_FINITE] * 2, ranks[0].log.read_text()[-3000:]
        words = [rank.word() for rank in ranks]
        assert {word["failure"] for word in words} == {"NonFinite"}
        (message,) = {word["message"] for word in words}
        assert message.startswith("step 3: loss "), message
        what = "loss" if where == "loss" else "gradient of a finite loss"
        told = re.search(rf"; the {what} ran away on rank 1 \(batch ([0-9a-f]{{16}})\); ", message)
        assert told, message
        named.add(told[1])
        assert "step 2 was the last finite one: loss " in message
        saved = {path.name for path in (root / "checkpoints").glob("step-*")}
        assert saved == {"step-1", "step-2"}
    assert len(named) == 1, "the same data on the same rank has one name, however it is shared out"


def test_the_first_step_after_a_resume_knows_what_was_fine_before_it(
    corpus: Path, tmp_path: Path, forked: Nursery
) -> None:
    run = tinyrun.run_dict(tmp_path, corpus, checkpoint__interval="1steps")
    setup = {"NURSERY_SETUP": RUN_AWAY, "RUNAWAY_RANK": "0", "RUNAWAY_IN": "loss"}
    fail(run, tmp_path, forked, ExitCode.NON_FINITE, **setup, RUNAWAY_AFTER="2")
    word = fail(run, tmp_path, forked, ExitCode.NON_FINITE, **setup, RUNAWAY_AFTER="0")
    manifest = json.loads((tmp_path / "checkpoints" / "step-2" / "manifest.json").read_text())
    _, loss, rate, norm, _ = manifest["progress"]["curve"][-1]
    assert (
        f"an earlier one's curve ends at step 2: loss {loss:.5g}, gradient norm {norm:.5g}, "
        f"learning rate {rate:.3g}. Nothing was applied" in word["message"]
    )


def test_storage_that_fails_for_one_rank_ends_all_and_skips_no_checkpoint(
    tmp_path: Path, corpus: Path, forked: Nursery
) -> None:
    """A link to itself is there and cannot be read."""
    run = tinyrun.run_dict(tmp_path, corpus, training__steps=10)
    started = tinyrun.start(run, tmp_path, nursery=forked, ranks=2)
    assert [rank.wait() for rank in started] == [0, 0]
    (victim,) = (tmp_path / "checkpoints" / "step-10").glob("__1_*.distcp")
    victim.unlink()
    victim.symlink_to(victim)
    started = tinyrun.start(run, tmp_path, nursery=forked, ranks=2, TROIKA_ATTEMPT="1")
    assert [rank.wait() for rank in started] == [ExitCode.STORAGE] * 2
    for rank in started:
        assert rank.word()["message"].startswith(f"{victim} cannot be read: Too many levels")


@contextlib.contextmanager
def small_volume(path: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own, with so much room."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "troika-test", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("a full disk needs a small volume, and this user may not mount one")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_full_disk_while_training(tmp_path: Path, corpus: Path, forked: Nursery) -> None:
    run = tinyrun.run_dict(tmp_path / "calm", corpus, training__steps=30)
    assert tinyrun.start(run, tmp_path / "calm", nursery=forked)[0].wait() == 0
    with small_volume(tmp_path / "volume", 1300) as volume:
        uri = str(volume / "checkpoints")
        run = tinyrun.run_dict(
            tmp_path / "run", corpus, training__steps=30, checkpoint__uri=uri, checkpoint__keep=9
        )
        word = fail(run, tmp_path / "run", forked, ExitCode.STORAGE)
        assert word["failure"] == "Storage"
        assert f"to {uri}: No space left on device (" in word["message"]
        assert "older checkpoints are untouched" in word["message"]
        assert "checkpoint.keep" in word["remedy"]
        left = sorted(path.name for path in volume.glob("checkpoints/step-*"))
        assert left
        assert not [name for name in left if "tmp" in name]
        # With more room it goes on from there, as if nothing had been.
        subprocess.run(["mount", "-o", "remount,size=16m", str(volume)], check=True)
        rank = tinyrun.start(run, tmp_path / "run", nursery=forked)[0]
        assert rank.wait() == 0
        assert any(line["message"] == "resumed" for line in rank.lines())
    calm, full = (tinyrun.weights(tmp_path / name / "model") for name in ("calm", "run"))
    assert all(calm[name].equal(full[name]) for name in calm)


def test_a_full_disk_while_tokenizing(tmp_path: Path, corpus: Path, forked: Nursery) -> None:
    with small_volume(tmp_path / "volume", 16) as volume:
        uri = str(volume / "checkpoints")
        run = tinyrun.run_dict(tmp_path / "run", corpus, checkpoint__uri=uri)
        word = fail(run, tmp_path / "run", forked, ExitCode.STORAGE)
        assert word["failure"] == "Storage"
        assert f"cannot write {uri}/cache/" in word["message"]
        assert "No space left on device" in word["message"]
        assert "data.cache.uri" in word["remedy"]
        assert not [path for path in volume.rglob("*") if "tmp" in path.name]


@pytest.mark.parametrize("place", ["model", "."])
def test_a_full_disk_while_exporting(
    tmp_path: Path, corpus: Path, forked: Nursery, place: str
) -> None:
    with small_volume(tmp_path / "volume", 100) as volume:
        model = volume / place
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text("earlier")
        uri = str(model)
        run = tinyrun.run_dict(tmp_path / "run", corpus, training__steps=4, output__uri=uri)
        word = fail(run, tmp_path / "run", forked, ExitCode.STORAGE)
        assert word["failure"] == "Storage"
        assert uri in word["message"]
        assert "No space left on device" in word["message"]
        assert "output.uri" in word["remedy"]
        assert {path for path in volume.rglob("*") if path.is_file()} == {model / "config.json"}
        assert (model / "config.json").read_text() == "earlier"
        # The steps are safe: with more room the next attempt only exports.
        subprocess.run(["mount", "-o", "remount,size=16m", str(volume)], check=True)
        rank = tinyrun.start(run, tmp_path / "run", nursery=forked)[0]
        assert rank.wait() == 0
        assert any(line["message"] == "resumed" for line in rank.lines())
        assert json.loads((model / "config.json").read_text())["model_type"] == "bert"


@pytest.mark.parametrize("damage", ["truncated", "changed"])
def test_a_damaged_shard_is_made_again(
    tmp_path: Path, corpus: Path, forked: Nursery, damage: str
) -> None:
    run = tinyrun.run_dict(tmp_path / "run", corpus, training__steps=4)
    assert tinyrun.start(run, tmp_path / "run", nursery=forked)[0].wait() == 0
    before = tinyrun.weights(tmp_path / "run" / "model")
    shard = next((tmp_path / "run").glob("checkpoints/cache/data-*/train/input_ids.00000.bin"))
    if damage == "truncated":
        os.truncate(shard, 100)
    else:
        np.memmap(shard, dtype=np.uint8, mode="r+")[7] ^= 1
    subprocess.run(f"rm -r {tmp_path}/run/checkpoints/step-*", shell=True, check=True)
    rank = tinyrun.start(run, tmp_path / "run", nursery=forked)[0]
    assert rank.wait() == 0
    warnings = [line["message"] for line in rank.lines() if line["level"] == "warning"]
    assert any(text.startswith(f"made again: {shard} is damaged") for text in warnings)
    after = tinyrun.weights(tmp_path / "run" / "model")
    assert all(before[name].equal(after[name]) for name in before)


def test_a_row_that_cannot_be_read(tmp_path: Path, corpus: Path, forked: Nursery) -> None:
    with corpus.open("a") as file:
        file.write('{"text": "whole"}\n{"text": "ha')
    word = fail(tinyrun.run_dict(tmp_path / "a", corpus), tmp_path / "a", forked, ExitCode.BAD_DATA)
    assert word["message"].startswith(f"{corpus}, line 202: expected one JSON object a line")
    write_rows(corpus, [{"text": "fine"}, {"text": 7}])
    word = fail(tinyrun.run_dict(tmp_path / "b", corpus), tmp_path / "b", forked, ExitCode.BAD_DATA)
    assert word["message"] == f"{corpus}, line 2, column 'text': expected text, got int 7"


def test_a_label_that_training_has_not_seen(base: Path, tmp_path: Path, forked: Nursery) -> None:
    rows = [{"text": f"the {word}", "label": word} for word in ("cat", "dog")]
    run = finetune_run(
        tmp_path / "run", write_rows(tmp_path / "train.jsonl", rows * 8), base / "model"
    )
    held_out = write_rows(tmp_path / "held.jsonl", [*rows, {"text": "the bird", "label": "bird"}])
    run["data"]["validation"] = {"uri": str(held_out)}
    word = fail(run, tmp_path / "run", forked, ExitCode.BAD_DATA)
    assert word["failure"] == "BadData"
    assert word["message"] == (
        f"{held_out}, line 3, column 'label': label 'bird' is not among those of the training "
        "split: cat, dog"
    )


def test_an_empty_split(base: Path, tmp_path: Path, forked: Nursery) -> None:
    rows = [{"text": f"the {word}", "label": word} for word in ("cat", "dog")]
    run = finetune_run(tmp_path / "run", write_rows(tmp_path / "train.jsonl", rows), base / "model")
    held_out = write_rows(tmp_path / "held.jsonl", [])
    run["data"]["validation"] = {"uri": str(held_out)}
    word = fail(run, tmp_path / "run", forked, ExitCode.BAD_DATA)
    assert word["message"] == f"the validation split has no rows: {held_out} gave none"


def test_a_sequence_longer_than_the_model(tmp_path: Path, corpus: Path, forked: Nursery) -> None:
    run = tinyrun.run_dict(tmp_path / "run", corpus, data__sequenceLength=128)
    word = fail(run, tmp_path / "run", forked, ExitCode.BAD_CONFIG)
    assert word["failure"] == "BadConfig"
    assert "128 is longer than the 64 positions of the model" in word["message"]
    assert "max_position_embeddings" in word["remedy"]
