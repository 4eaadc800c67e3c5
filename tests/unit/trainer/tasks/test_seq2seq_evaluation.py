"""How much Seq2Seq writes when it is measured: how many rows, and how long a text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel

from support.tiny_models import encoder_decoder
from support.tiny_tasks import finetune_run, tiny_tokenizer, write_rows
from support.trainer_runs import train_here
from troika_api.v1alpha1.run import RUN
from troika_trainer.batch import Batch, places_of
from troika_trainer.errors import ConfigError
from troika_trainer.tasks.seq2seq import DEFAULT_NEW_TOKENS, Seq2Seq

ROWS = [{"source": f"{letter} " * 3, "target": letter * 5} for letter in "abcdefgh"]
POSITIONS = 48


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [text for row in ROWS for text in row.values()]
    return encoder_decoder(tmp_path_factory.mktemp("start"), texts, vocabulary=300)


def report_of(folder: Path, start: Path, rows: int, **evaluation: Any) -> dict[str, Any]:
    """Of a run of two steps that is measured at the last, with so many rows for validation."""
    run = finetune_run(
        folder,
        task="Seq2Seq",
        model=start,
        splits={
            "train": write_rows(folder / "train.jsonl", ROWS),
            "validation": write_rows(folder / "validation.jsonl", ROWS[:rows]),
        },
        training={"steps": 2, "epochs": None, "globalBatchSize": 4},
        evaluation={"maxNewTokens": 4, **evaluation},
    )
    train_here(run)
    found: dict[str, Any] = json.loads((folder / "model" / "report.json").read_text())
    return found


def test_the_first_rows_are_measured_while_it_trains_and_all_at_the_end(
    tmp_path: Path, start: Path
) -> None:
    capped = report_of(tmp_path / "capped", start, len(ROWS), maxSequences=3)
    first = report_of(tmp_path / "first", start, 3)
    whole = report_of(tmp_path / "whole", start, len(ROWS))
    assert capped["history"] == first["history"] != whole["history"]
    assert capped["evaluation"]["metrics"] == whole["evaluation"]["metrics"]


def test_a_cap_above_the_split_is_the_whole_split(tmp_path: Path, start: Path) -> None:
    capped = report_of(tmp_path / "capped", start, 3, maxSequences=1000)
    assert capped["history"] == report_of(tmp_path / "whole", start, 3)["history"]


def attached(
    folder: Path, *, positions: int | None, **changes: Any
) -> tuple[Seq2Seq, PreTrainedModel]:
    """The task with a BART of so many positions, or with a T5, which has no limit."""
    tokenizer = tiny_tokenizer([row["source"] for row in ROWS])
    sizes: dict[str, Any] = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 16}
    if positions is not None:
        sizes = {"model_type": "bart", "d_model": 16, "max_position_embeddings": positions}
        for side in ("encoder", "decoder"):
            sizes |= {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 16}
    kind = sizes.pop("model_type")
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), num_layers=1, decoder_start_token_id=0, **sizes
    )
    run = finetune_run(
        folder, task="Seq2Seq", model=folder, splits={"train": folder / "rows.jsonl"}, **changes
    )
    auto: Any = AutoModelForSeq2SeqLM
    task = Seq2Seq(RUN.validate_python(run), tokenizer)
    model: PreTrainedModel = auto.from_config(config).eval()
    task.attach(model)
    return task, model


@pytest.mark.parametrize(
    ("positions", "asked", "written"),
    [
        (POSITIONS, None, POSITIONS),
        (POSITIONS, POSITIONS, POSITIONS),
        (POSITIONS, 7, 7),
        (None, None, DEFAULT_NEW_TOKENS),
        (None, 2 * DEFAULT_NEW_TOKENS, 2 * DEFAULT_NEW_TOKENS),
    ],
)
def test_texts_are_no_longer_than_the_positions_of_the_model(
    tmp_path: Path, positions: int | None, asked: int | None, written: int
) -> None:
    task, model = attached(tmp_path, positions=positions, evaluation={"maxNewTokens": asked})
    model.generation_config.eos_token_id = None  # it never stops
    model.generation_config.forced_eos_token_id = None
    ids = torch.full((2, 5), 7)
    batch = Batch({"input_ids": ids}, ids, weight=10, tokens=20, pairs=50, places=places_of(ids))
    with torch.no_grad():
        _, found = task.forward(model, batch)
    assert found.shape == (2, 1 + written)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("evaluation.maxNewTokens", {"evaluation": {"maxNewTokens": POSITIONS + 1}}),
        ("data.maxTargetLength", {"data": {"maxTargetLength": POSITIONS + 1}}),
    ],
)
def test_more_than_the_positions_is_refused_at_start(
    tmp_path: Path, field: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as refused:
        attached(tmp_path, positions=POSITIONS, **changes)
    assert str(refused.value) == (
        f"{field} {POSITIONS + 1} is longer than the {POSITIONS} positions of the model"
    )
