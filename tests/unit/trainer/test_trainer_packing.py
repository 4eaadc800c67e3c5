"""Packed conversations give the loss of padded ones; rows are filled best-fit first."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from support.tiny_models import causal_model
from support.trainer_runs import finetune_run, train_here
from troika_trainer.errors import ConfigError
from troika_trainer.packing import best_fit, check_model, joined, positions

TALES = [
    {"prompt": f"say {word} {times} times", "completion": " ".join([word] * times)}
    for word in ("red", "green", "blue")
    for times in range(1, 9)
]


@pytest.mark.parametrize(
    ("lengths", "room", "rows"),
    [
        ([5], 10, [[0]]),
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([2, 7, 3, 8], 10, [[3, 0], [1, 2]]),
        ([6, 5, 4, 5], 10, [[0, 2], [1, 3]]),
        ([30, 4, 5], 10, [[0], [2, 1]]),
    ],
    ids=["one", "in turn", "longest first", "least room", "too long"],
)
def test_each_example_goes_where_it_leaves_the_least_room(
    lengths: list[int], room: int, rows: list[list[int]]
) -> None:
    assert [row.tolist() for row in best_fit(np.array(lengths), room=room)] == rows


def test_every_example_is_packed_once_and_little_is_padding() -> None:
    lengths = 5 + np.arange(300) * 7919 % 60
    rows = best_fit(lengths, room=128)
    assert sorted(np.concatenate(rows).tolist()) == list(range(300))
    assert max(lengths[row].sum() for row in rows) <= 128
    assert lengths.sum() / (128 * len(rows)) > 0.97


def test_positions_start_again_with_every_example_and_with_the_padding() -> None:
    assert positions([np.array([3, 2]), np.array([4])]).tolist() == [
        [0, 1, 2, 0, 1],
        [0, 1, 2, 3, 0],
    ]
    parts = [[np.array([7, 8, 9]), np.array([5, 6])], [np.array([1, 2, 3, 4])]]
    assert joined(parts, fill=0).tolist() == [[7, 8, 9, 5, 6], [1, 2, 3, 4, 0]]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [text for tale in TALES for text in tale.values()] * 5
    return causal_model(tmp_path_factory.mktemp("talker"), texts, vocabulary=300)


def chat_run(folder: Path, talker: Path, **data: Any) -> dict[str, Any]:
    path = folder / "tales.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(tale) + "\n" for tale in TALES))
    sources = {"train": {"uri": str(path)}, "validation": {"uri": str(path)}, "test": None}
    run = finetune_run(folder, model=talker, task="Chat", data={**sources, "maxLength": 96, **data})
    run["training"] |= {"epochs": 3, "globalBatchSize": 8, "dropout": None}
    run["training"]["optimizer"] = {"learningRate": 0.003}
    config = talker / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(
        json.dumps(settings | dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0))
    )
    return run


def test_packed_conversations_give_the_loss_of_padded_ones(tmp_path: Path, talker: Path) -> None:
    padded = train_here(chat_run(tmp_path / "padded", talker))
    packed = train_here(chat_run(tmp_path / "packed", talker, packing=True))
    assert len(padded.losses) == 9
    assert packed.losses == pytest.approx(padded.losses, abs=1e-5)
    assert packed.losses[-1] < packed.losses[0] - 0.1
    assert packed.scores[-1]["loss"] == pytest.approx(padded.scores[-1]["loss"], abs=1e-5)
    assert [step.tokens for step in packed.steps] == [step.tokens for step in padded.steps]
    assert [step.samples for step in packed.steps] == [step.samples for step in padded.steps]


def test_micro_batches_of_packed_rows_give_the_same_loss(tmp_path: Path, talker: Path) -> None:
    runs: Sequence[dict[str, Any]] = [
        chat_run(tmp_path / str(micro), talker, packing=True) for micro in (8, 1)
    ]
    runs[1]["training"]["microBatchSize"] = 1
    whole, parts = (train_here(run).losses for run in runs)
    assert parts == pytest.approx(whole, abs=1e-5)


def model_of(kind: str, **size: Any) -> PreTrainedModel:
    torch.manual_seed(17)
    config = AutoConfig.for_model(kind, vocab_size=64, **size)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return model


def test_a_model_that_reads_on_from_one_example_to_the_next_is_refused() -> None:
    model = model_of("mamba", hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(ConfigError, match=r"data.packing: MambaForCausalLM does not keep"):
        check_model(model)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "mistral", "gemma2"])
def test_the_usual_models_keep_examples_apart(kind: str) -> None:
    size = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "head_dim": 16}
    more = {"intermediate_size": 64, "num_key_value_heads": 2}
    check_model(model_of(kind, **size, **({} if kind == "gpt2" else more)))
