"""However the ranks share the work, they make the same run."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from support import tinyrun
from support.histories import NO_DROPOUT, Runs
from support.nursery import Nursery
from support.tiny_models import encoder_decoder
from support.trainer_launch import launching
from troika_api.contract import ExitCode

pytestmark = pytest.mark.slow

FULL_MEMORY = {"NURSERY_SETUP": "support.fullmemory:of_environment", "FULL_RANK": "1"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forked: Nursery) -> Runs:
    corpus = tinyrun.write_corpus(tmp_path_factory.mktemp("corpus") / "train.jsonl")
    return Runs(tmp_path_factory.mktemp("runs"), corpus, forked)


def plain(runs: Runs, name: str, **changes: Any) -> dict[str, Any]:
    return runs.run(name, model__config=NO_DROPOUT, **changes)


@pytest.fixture(scope="module")
def replicated(runs: Runs) -> str:
    """A run of two ranks that hold a copy each."""
    runs.finish(plain(runs, "replicated"), "replicated", ranks=2)
    return "replicated"


def same_weights(runs: Runs, left: str, right: str) -> bool:
    one, other = runs.weights(left), runs.weights(right)
    assert one.keys() == other.keys()
    return all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_copies_make_the_run_of_one_rank(runs: Runs, replicated: str) -> None:
    runs.finish(plain(runs, "alone"), "alone")
    assert runs.history(replicated) == pytest.approx(runs.history("alone"), abs=1e-5)
    assert same_weights(runs, replicated, "alone")


@pytest.mark.parametrize(
    ("sharding", "ranks", "of_a_node"), [("FSDP", 2, 2), ("HybridFSDP", 2, 1), ("HybridFSDP", 4, 2)]
)
def test_parts_make_the_run_of_copies(
    runs: Runs, replicated: str, sharding: str, ranks: int, of_a_node: int
) -> None:
    name = f"{sharding}-{ranks}-{of_a_node}"
    run = plain(runs, name, training__sharding=sharding, training__microBatchSize=1)
    runs.finish(run, name, ranks=ranks, LOCAL_WORLD_SIZE=str(of_a_node))
    assert runs.history(name) == pytest.approx(runs.history(replicated), abs=1e-5)
    assert same_weights(runs, name, replicated)


@pytest.mark.parametrize("sharding", ["None", "FSDP"])
def test_compiled_layers_make_the_run_of_those_that_are_not(
    runs: Runs, replicated: str, sharding: str
) -> None:
    name = f"compiled-{sharding}"
    run = plain(runs, name, training__sharding=sharding, training__compile="Always")
    runs.finish(run, name, ranks=2)
    assert runs.history(name) == pytest.approx(runs.history(replicated), abs=1e-5)


def test_a_sharded_checkpoint_is_written_in_parts_and_its_model_is_whole(runs: Runs) -> None:
    name = "FSDP-parts"
    run = plain(runs, name, training__sharding="FSDP", training__steps=12)
    runs.finish(run, name, ranks=2)
    parts = sorted((runs.root / name / "checkpoints" / "step-12").glob("*.distcp"))
    sizes = [part.stat().st_size for part in parts]
    assert [part.name for part in parts] == ["__0_0.distcp", "__1_0.distcp"]
    assert max(sizes) < 0.6 * sum(sizes), "each rank writes its half"
    model, info = AutoModelForMaskedLM.from_pretrained(
        runs.root / name / "model", output_loading_info=True
    )
    assert not info["missing_keys"]
    tied = model.cls.predictions.decoder.weight, model.bert.embeddings.word_embeddings.weight
    assert tied[0] is tied[1]


@pytest.mark.parametrize(
    ("before", "after"), [((2, "FSDP"), (1, "None")), ((1, "None"), (2, "FSDP"))]
)
def test_a_run_goes_on_with_another_sharding_and_number_of_ranks(
    runs: Runs, replicated: str, before: tuple[int, str], after: tuple[int, str]
) -> None:
    name = f"from-{before[1]}-to-{after[1]}"
    run = plain(runs, name, training__sharding=before[1])
    runs.stop_at(run, name, step=5, ranks=before[0])
    run["training"]["sharding"] = after[1]
    runs.finish(run, name, ranks=after[0], TROIKA_ATTEMPT="1")
    assert runs.history(name) == pytest.approx(runs.history(replicated), abs=1e-4)


def test_memory_that_runs_out_on_one_of_the_ranks_halves_the_micro_batch_of_all(
    runs: Runs, replicated: str
) -> None:
    """Four a rank: on the second more than one do not fit, but for the trial and the first step."""
    name = "full"
    ranks = runs.finish(
        plain(runs, name), name, ranks=2, **FULL_MEMORY, FULL_ABOVE="1", FULL_AFTER="2"
    )
    lines = [line for line in ranks[0].lines() if line["message"].startswith("memory ran out")]
    assert [(line["step"], line["sequences"]) for line in lines] == [(2, 2), (2, 1)]
    assert runs.history(name) == pytest.approx(runs.history(replicated), abs=1e-5)
    kept = json.loads((runs.root / name / "checkpoints" / "cache" / "micro-batch.json").read_text())
    assert kept == {"CPU": 1}


def test_memory_that_does_not_hold_one_sequence_ends_all_ranks(runs: Runs) -> None:
    name = "too-full"
    run = plain(runs, name, training__microBatchSize=1)
    ranks = runs.start(run, name, ranks=2, **FULL_MEMORY, FULL_ABOVE="0", FULL_AFTER="1")
    assert [rank.wait() for rank in ranks] == [ExitCode.OUT_OF_MEMORY] * 2
    word = ranks[1].word()
    assert word["failure"] == "OutOfMemory"
    assert word["message"].startswith("memory ran out in step 1, with one sequence at a time")
    assert "activationCheckpointing" in word["remedy"]


def test_sharded_ranks_start_again_with_half(runs: Runs, replicated: str) -> None:
    """What the launcher does in place: the ranks are ended and started again."""
    name = "full-sharded"
    run = plain(runs, name, training__sharding="FSDP", checkpoint__interval="1steps")
    ranks = runs.start(run, name, ranks=2, **FULL_MEMORY, FULL_ABOVE="2", FULL_AFTER="4")
    assert ranks[1].wait() == 1, "not an exit after which the launcher gives up"
    word = ranks[1].word()
    assert word["failure"] == "OutOfMemory"
    assert (
        "with 4 sequences at a time on each rank; the ranks start again with 2" in word["message"]
    )
    ranks[0].kill(signal.SIGKILL)
    ranks[0].wait()
    runs.finish(run, name, ranks=2, **FULL_MEMORY, FULL_ABOVE="2", FULL_AFTER="0")
    assert runs.history(name) == pytest.approx(runs.history(replicated), abs=1e-5)


def test_the_launcher_starts_sharded_ranks_again_in_the_same_attempt(
    runs: Runs, replicated: str, tmp_path: Path
) -> None:
    name = "launched"
    run = plain(runs, name, training__sharding="FSDP", checkpoint__interval="1steps")
    # The ranks are processes of the launcher, and Python imports this before all else.
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if 'RANK' in os.environ:\n"
        "    from support.fullmemory import of_environment\n"
        "    of_environment()\n"
    )
    environment = {
        "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}",
        "FULL_RANK": "1",
        "FULL_ABOVE": "2",
        "FULL_AFTER": "4",
    }
    with launching(tmp_path / "launched") as launcher:
        launched = launcher.start(run, ranks=2, **environment)
        assert launched.wait() == 0, launched.output()[-3000:]
    (resumed,) = {line["step"] for line in launched.lines("resumed")}
    assert 0 < resumed <= 4
    assert "the ranks start again with 2" in launched.output()
    assert runs.history(name) == pytest.approx(runs.history(replicated), abs=1e-5)


def labelled(runs: Runs, name: str, **changes: Any) -> dict[str, Any]:
    """A run that adapts a small model to two classes."""
    if not (runs.root / "base" / "model").exists():
        base = plain(runs, "base", training__steps=2, evaluation__everySteps=2)
        runs.finish(base, "base")
    rows = runs.root / "labelled.jsonl"
    texts = [json.loads(line)["text"] for line in runs.corpus.read_text().splitlines()]
    rows.write_text(
        "\n".join(json.dumps({"text": text, "label": "cat" in text}) for text in texts[:62])
    )
    run = tinyrun.run_dict(runs.root / name, rows, training__steps=None, **changes)
    for key in ("objective", "tokenizer", "evaluation"):
        del run[key]
    data = {"train": {"uri": str(rows)}, "validation": {"fraction": 0.3}, "maxLength": 64}
    run |= {
        "kind": "FinetuneJob",
        "task": "TextClassification",
        "model": {"path": str(runs.root / "base" / "model")},
        "data": data,
    }
    run["training"]["epochs"] = 2
    return run


@pytest.mark.parametrize(
    "method", [{"type": "LoRA"}, {"type": "LoRA", "merge": True}, {"type": "Frozen"}], ids=str
)
def test_what_is_frozen_is_sharded_too(runs: Runs, method: dict[str, Any]) -> None:
    reports = []
    exports = []
    for ranks, sharding in ((1, "None"), (2, "FSDP")):
        name = f"{sharding}-{method['type']}-{len(method)}"
        run = labelled(runs, name, training__sharding=sharding)
        runs.finish(run | {"method": method}, name, ranks=ranks)
        (file,) = (runs.root / name / "model").glob("*.safetensors")
        exports.append(load_file(file))
        reports.append(json.loads((file.parent / "report.json").read_text()))
    assert reports[0]["history"] == [
        pytest.approx(entry, abs=1e-4) for entry in reports[1]["history"]
    ]
    assert exports[0].keys() == exports[1].keys()
    assert all(torch.allclose(exports[0][name], exports[1][name], atol=1e-5) for name in exports[0])


def test_an_adapter_in_bfloat16_is_sharded_to_within_its_rounding(runs: Runs) -> None:
    """Frozen weights are cast, gathered and kept in bfloat16; the adapter and its moments are not.

    bfloat16 has 8 significant bits: a value is rounded by up to 2^-9 of itself, layer after layer,
    and other micro-batches are rounded otherwise. AdamW makes a step of full size of a gradient
    that is next to nothing, so that after one step losses of 0.2 to 0.8 differ by about 0.01; 0.02
    is far below what the steps of the run are apart, which is asked for too.
    """
    curves = {}
    for kind, ranks, sharding in (
        ("alone", 1, "None"),
        ("copies", 2, "None"),
        ("parts", 2, "FSDP"),
    ):
        name = f"bf16-{kind}"
        run = labelled(
            runs,
            name,
            training__sharding=sharding,
            training__precision="BF16",
            training__optimizer={"learningRate": 0.02},
        )
        runs.finish(run | {"method": {"type": "LoRA"}}, name, ranks=ranks)
        folder = runs.root / name / "model"
        curves[kind] = json.loads((folder / "report.json").read_text())["curve"]
        weights = load_file(folder / "adapter_model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
    losses, norms = (
        {kind: [point[field] for point in curve] for kind, curve in curves.items()}
        for field in ("loss", "gradient_norm")
    )
    assert len(losses["alone"]) == 12
    assert max(losses["alone"]) - min(losses["alone"]) > 0.1
    for shared in ("copies", "parts"):
        assert losses[shared][0] == pytest.approx(losses["alone"][0], abs=0.001)
        assert losses[shared] == pytest.approx(losses["alone"], abs=0.02)
        # AdamW would hide gradients that were all too large or too small.
        assert norms[shared][:2] == pytest.approx(norms["alone"][:2], rel=0.05)


def test_sharded_ranks_write_texts_together(runs: Runs) -> None:
    """Texts end at different lengths, and the last round has work for one rank only."""
    rows = runs.root / "pairs.jsonl"
    texts = [json.loads(line)["text"] for line in runs.corpus.read_text().splitlines()[:60]]
    pairs = [
        {"source": text, "target": " ".join(text.split()[: 1 + number % 5])}
        for number, text in enumerate(texts)
    ]
    rows.write_text("\n".join(map(json.dumps, pairs)))
    start = encoder_decoder(runs.root / "t5", texts, vocabulary=300)
    scores = []
    for ranks, sharding in ((1, "None"), (2, "FSDP")):
        name = f"{sharding}-written"
        run = labelled(runs, name, training__sharding=sharding, training__microBatchSize=2)
        run |= {"task": "Seq2Seq", "model": {"path": str(start)}}
        run["data"] |= {"train": {"uri": str(rows)}, "validation": {"fraction": 0.15}}
        run["evaluation"] = {"maxNewTokens": 12}
        runs.finish(run, name, ranks=ranks)
        report = json.loads((runs.root / name / "model" / "report.json").read_text())
        scores.append(report["evaluation"]["metrics"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.parametrize("sharding", ["None", "FSDP"])
def test_ranks_agree_on_a_micro_batch_that_fits_all(runs: Runs, sharding: str) -> None:
    """Two samples fit on the second rank, where copies are tried; parts have room for all."""
    name = f"auto-{sharding}"
    run = plain(runs, name, training__microBatchSize="Auto", training__sharding=sharding)
    full = {**FULL_MEMORY, "FULL_ABOVE": "2", "FULL_AFTER": "0"}
    ranks = runs.finish(run, name, ranks=2, **(full if sharding == "None" else {}))
    kept = json.loads((runs.root / name / "checkpoints" / "cache" / "micro-batch.json").read_text())
    (size,) = kept.values()
    assert size in ((1, 2) if sharding == "None" else (1, 2, 4))
    found = [line["sequences"] for line in ranks[0].lines() if "size found" in line["message"]]
    assert found == [size]
    assert not [line for line in ranks[0].lines() if "memory ran out" in line["message"]]
