"""Each way to pretrain learns from real prose in seconds; plain transformers reads the result."""

from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from support.language_tasks import BART, T5
from support.real_data import real_data
from support.tiny_tasks import Outcome, rows_of, trained, write_rows
from troika_trainer.shards import Store

SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
ENCODERS: dict[str, dict[str, Any]] = {
    "roberta": {**SIZE, "intermediate_size": 64},
    "electra": {**SIZE, "intermediate_size": 64, "embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
}
DENOISERS: dict[str, dict[str, Any]] = {
    "t5": {**T5, "num_layers": 1},
    "bart": {**BART, "encoder_layers": 1, "decoder_layers": 1},
}
VOCABULARY = 600


@pytest.fixture(scope="module")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tenth of the set."""
    rows = rows_of(real_data("prose") / "prose" / "train.jsonl", 600)
    return write_rows(tmp_path_factory.mktemp("prose") / "some.jsonl", rows)


def pretrained(folder: Path, prose: Path, objective: str, **changes: Any) -> Outcome:
    """Forty steps of 16 sequences."""
    run = {
        "kind": "PretrainJob",
        "name": "tiny",
        "objective": objective,
        "model": {"config": {**changes["model"], "max_position_embeddings": 70}},
        "tokenizer": {"train": {"vocabSize": VOCABULARY}},
        "masking": changes.get("masking", {}),
        "data": {
            "train": {"uri": str(prose)},
            "validation": {"fraction": 0.05},
            "sequenceLength": 64,
            "packing": changes.get("packing", False),
        },
        "training": {
            "steps": 40,
            "globalBatchSize": 16,
            "precision": "FP32",
            "optimizer": {"learningRate": 0.01},
        },
        "evaluation": {"everySteps": 40, "maxSequences": 64},
        "checkpoint": {"uri": str(folder / "checkpoints"), "interval": "1h"},
        "output": {"uri": str(folder / "model")},
    }
    if changes["model"]["model_type"] in ("t5", "distilbert"):
        run["model"]["config"].pop("max_position_embeddings")
    return trained(folder, run)


def assert_gives_what_was_trained_on(tokenizer: Any, folder: Path, prose: Path) -> None:
    """The same numbers for the same texts, each between a first and a last token."""
    given = {tuple(tokenizer(row["text"])["input_ids"]) for row in rows_of(prose)}
    (data,) = (folder / "checkpoints" / "cache").glob("data-*")
    seen = Store(data / "train")["input_ids"]
    assert len(seen) > 500
    trained_on = {tuple(seen[number].tolist()) for number in range(len(seen))}
    assert trained_on <= given
    assert {(ids[0], ids[-1]) for ids in trained_on} == {
        (tokenizer.cls_token_id, tokenizer.sep_token_id)
    }


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_learn_to_fill_masks(tmp_path: Path, prose: Path, kind: str) -> None:
    """Baseline: to hold every token for as likely, ln(vocabulary) nats."""
    model = {"model_type": kind, **ENCODERS[kind]}
    outcome = pretrained(tmp_path, prose, "MaskedLM", model=model, masking={"wholeWord": True})
    assert outcome.scores["loss"] < log(VOCABULARY) - 0.5
    assert outcome.scores["accuracy"] > 5 / VOCABULARY
    tokenizer = AutoTokenizer.from_pretrained(outcome.model)
    assert_gives_what_was_trained_on(tokenizer, tmp_path, prose)
    mask = tokenizer.mask_token
    fill = pipeline("fill-mask", model=str(outcome.model))
    assert len(fill(f"the people {mask} the state")) == 5


@pytest.mark.parametrize("packing", [False, True], ids=["joined", "packed"])
def test_a_causal_model_is_measured_in_bits_per_byte(
    tmp_path: Path, prose: Path, packing: bool
) -> None:
    """Baseline: to hold every byte for as likely, 8 bits."""
    model = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 70}
    outcome = pretrained(tmp_path, prose, "CausalLM", model=model, packing=packing)
    bits, nats = outcome.scores["bitsPerByte"], outcome.scores["loss"]
    assert bits < 4.5
    assert 1.5 < nats / log(2) / bits < 5, "bytes a token, of a vocabulary of this size"


@pytest.mark.parametrize("kind", DENOISERS)
def test_a_decoder_restores_what_was_hidden(tmp_path: Path, prose: Path, kind: str) -> None:
    """Baseline: to hold every token for as likely, ln(vocabulary) nats."""
    outcome = pretrained(
        tmp_path, prose, "Denoising", model={"model_type": kind, **DENOISERS[kind]}
    )
    assert outcome.scores["loss"] < log(VOCABULARY) - 0.5
    model = AutoModelForSeq2SeqLM.from_pretrained(outcome.model)
    tokenizer = AutoTokenizer.from_pretrained(outcome.model)
    start = tokenizer.pad_token_id if kind == "t5" else tokenizer.eos_token_id
    assert model.config.decoder_start_token_id == start
    hole = "<extra_id_0>" if kind == "t5" else tokenizer.mask_token
    tokens = tokenizer(f"the {hole} of the state", return_tensors="pt")
    assert tokens["input_ids"].shape[1] < 20, "the hole is one token"
    with torch.no_grad():
        written = model.generate(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], max_new_tokens=8
        )
    assert 2 <= written.shape[1] <= 9
    assert written[0, 0] == start
