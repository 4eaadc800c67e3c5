"""Documents in rows: each token once, none sees another document, and the loss is that of each."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from support.language_tasks import ARCHITECTURES, CAUSAL, causal, masked, run_with
from troika_trainer.batch import IGNORED, Batch, Integers
from troika_trainer.errors import ConfigError, DataError
from troika_trainer.model import build_model
from troika_trainer.packing import Layout
from troika_trainer.shards import Column, Store
from troika_trainer.tasks.causal_lm import CausalLM
from troika_trainer.tasks.language import LanguageTask, PackedRows

ROOM = 48
LENGTHS = [5, 100, 20, 1, 9, 48, 31, 2, 40, 17]
KEEP_APART = [kind for kind in ARCHITECTURES if kind != "deberta-v2"]
NARROW = {"modernbert": {"local_attention": 16}}
"""A window that is shorter than a document."""


def test_pieces_go_where_they_leave_the_least_room() -> None:
    layout = Layout.of(np.array([3, 10, 4, 25]), room=10)
    assert layout.bounds.tolist() == [0, 1, 2, 4, 5, 6]
    assert layout.starts.tolist() == [0, 3, 13, 37, 17, 27]
    assert layout.lengths.tolist() == [3, 10, 4, 5, 10, 10]
    assert layout.tokens.tolist() == [3, 10, 9, 10, 10]


@pytest.mark.parametrize("room", [64, 512, 2048])
def test_every_token_is_in_one_row_and_little_is_padding(room: int) -> None:
    """Documents as the web has them: most are short, and some very long."""
    texts = np.random.default_rng(17).lognormal(5.5, 1.1, size=20_000).astype(np.int64)
    layout = Layout.of(texts, room=room)
    order = np.argsort(layout.starts)
    ends = (layout.starts + layout.lengths)[order]
    assert layout.starts[order].tolist() == [0, *ends[:-1]]
    assert ends[-1] == texts.sum()
    assert layout.tokens.max() <= room
    assert texts.sum() / (len(layout) * room) > 0.95
    borders = np.cumsum(texts)
    first = np.searchsorted(borders, layout.starts, side="right")
    last = np.searchsorted(borders, layout.starts + layout.lengths - 1, side="right")
    assert (first == last).all(), "a piece is of one document"


def test_the_first_rows_are_the_first_documents() -> None:
    """Validation may look at the beginning only: it must not be the long ones alone."""
    texts = np.tile([100, 7], 5000)
    layout = Layout.of(texts, room=64)
    assert layout.starts[layout.bounds[:-1]].tolist() == sorted(layout.starts[layout.bounds[:-1]])
    assert layout.lengths[:1000].min() == 7


@pytest.mark.parametrize("texts", [LENGTHS, []])
def test_what_was_laid_out_is_found_again(texts: list[int], tmp_path: Path) -> None:
    layout = Layout.of(np.array(texts, dtype=np.int64), room=ROOM)
    layout.save(tmp_path / "train")
    opened = Layout.open(tmp_path / "train")
    assert isinstance(opened.starts, np.memmap)
    for field in fields(Layout):
        assert getattr(opened, field.name).tolist() == getattr(layout, field.name).tolist()


def store_of(lengths: list[int], *, first: int = 40) -> Store:
    tokens = np.arange(sum(lengths)) * 7 % 200 + first
    offsets = np.cumsum([0, *lengths])
    column = Column([tokens.astype(np.uint16)], offsets)
    return Store.of({"input_ids": column}, {"split": "train"})


def settings(**training: Any) -> dict[str, Any]:
    data = {"packing": True, "sequenceLength": ROOM}
    return {"data": data, "training": {"dropout": 0.0, **training}}


def task_of(kind: str) -> LanguageTask:
    if kind in CAUSAL:
        return causal({"model_type": kind, **CAUSAL[kind]}, **settings())
    config = {"model_type": kind, **ARCHITECTURES[kind], **NARROW.get(kind, {})}
    return masked(config, **settings())


def packed(task: LanguageTask) -> tuple[Batch, list[list[slice]]]:
    """All rows, and where in each the pieces are."""
    layout = Layout.of(np.array(LENGTHS), room=ROOM)
    indices = np.arange(len(layout))
    batch = PackedRows(store_of(LENGTHS), layout, task).batch(indices, np.zeros_like(indices))
    pieces = [layout.pieces(row)[1] for row in range(len(layout))]
    return batch, [spans(lengths) for lengths in pieces]


def spans(lengths: Integers) -> list[slice]:
    ends = np.cumsum(lengths)
    return [slice(int(end - length), int(end)) for end, length in zip(ends, lengths, strict=True)]


def test_no_label_is_across_a_border_and_all_is_counted() -> None:
    task = task_of("gpt2")
    batch, rows = packed(task)
    ids, labels = batch.inputs["input_ids"], batch.labels
    for row, pieces in enumerate(rows):
        for piece in pieces:
            inside = labels[row, piece.start : piece.stop - 1]
            assert inside.tolist() == ids[row, piece.start + 1 : piece.stop].tolist()
            if piece.start:
                assert labels[row, piece.start - 1] == IGNORED
        assert (labels[row, pieces[-1].stop - 1 :] == IGNORED).all(), "padding"
    lengths = [5, 48, 48, 4, 20, 1, 9, 48, 31, 2, 40, 17]
    assert batch.tokens == sum(LENGTHS) == sum(lengths)
    assert batch.weight == sum(lengths) - len(lengths) == int((labels != IGNORED).sum())
    assert batch.pairs == sum(length**2 for length in lengths)
    assert batch.samples == len(rows)


def loss_of_each(model: PreTrainedModel, batch: Batch, rows: list[list[slice]]) -> torch.Tensor:
    """Of every piece as if it were alone in the world, summed."""
    total = torch.zeros(())
    shift = batch.inputs["input_ids"].shape[1] - batch.labels.shape[1]
    for row, pieces in enumerate(rows):
        for piece in pieces:
            logits = model(input_ids=batch.inputs["input_ids"][row : row + 1, piece]).logits[0]
            labels = batch.labels[row, piece.start : piece.stop - shift]
            total += cross_entropy(logits[: len(labels)], labels, reduction="sum")
    return total


@pytest.mark.parametrize("kind", [*CAUSAL, *KEEP_APART])
def test_packed_documents_have_the_loss_of_each_alone(kind: str) -> None:
    task = task_of(kind)
    model = build_model(task.run, task)
    task.attach(model)
    batch, rows = packed(task)
    with torch.no_grad():
        wanted = loss_of_each(model.train(mode=False), batch, rows).item()
        measured, _ = task.forward(model, batch)
        trained, _ = task.forward(model.train(), batch)
    assert batch.weight > 20
    assert measured.item() == pytest.approx(wanted, rel=2e-6)
    assert trained.item() == pytest.approx(wanted, rel=2e-6)


def test_the_bytes_of_what_nothing_predicts_are_not_counted() -> None:
    """Every token is a byte, the first of the vocabulary too: no special one hides a mistake."""
    letters = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE(letters, [])))  # type: ignore[no-untyped-call]
    task = CausalLM(run_with({"model_type": "gpt2", **CAUSAL["gpt2"]}, **settings()), tokenizer)
    model = build_model(task.run, task).train(mode=False)
    task.attach(model)
    batch, rows = packed(task)
    with torch.no_grad():
        _, found = task.forward(model, batch)
    for row, pieces in enumerate(rows):
        assert found[row] == sum(piece.stop - piece.start - 1 for piece in pieces)


@pytest.mark.parametrize("whole_word", [False, True])
def test_masks_depend_on_row_and_epoch_and_spare_the_padding(whole_word: bool) -> None:
    config = {"model_type": "bert", **ARCHITECTURES["bert"]}
    task = masked(config, **settings(), masking={"wholeWord": whole_word, "probability": 0.5})
    rows = PackedRows(store_of(LENGTHS), Layout.of(np.array(LENGTHS), room=ROOM), task)
    indices = np.arange(len(rows))
    whole = rows.batch(indices, np.zeros_like(indices))
    again = rows.batch(indices[2:3], np.zeros(1, dtype=np.int64))
    other = rows.batch(indices, np.ones_like(indices))
    width = again.labels.shape[1]
    assert whole.labels[2, :width].tolist() == again.labels[0].tolist()
    assert whole.labels.tolist() != other.labels.tolist()
    real = torch.arange(ROOM)[None] < torch.from_numpy(rows.lengths(indices))[:, None]
    assert not real.all()
    assert (whole.labels[~real] == IGNORED).all()
    assert whole.weight == int((whole.labels != IGNORED).sum())


MAMBA = {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}


@pytest.mark.parametrize("kind", ["mamba", "deberta-v2"])
def test_a_model_that_does_not_keep_documents_apart_is_refused(kind: str) -> None:
    task: LanguageTask = (
        causal({"model_type": kind, **MAMBA}, data={"packing": True})
        if kind == "mamba"
        else masked({"model_type": kind, **ARCHITECTURES[kind]}, data={"packing": True})
    )
    model = build_model(task.run, task)
    with pytest.raises(ConfigError, match=r"data\.packing: \w+ does not keep"):
        task.attach(model)


def test_a_split_without_text_is_refused() -> None:
    with pytest.raises(DataError, match="the train split has no text"):
        PackedRows(
            store_of([]), Layout.of(np.array([], dtype=np.int64), room=ROOM), task_of("gpt2")
        )
