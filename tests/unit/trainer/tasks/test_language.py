"""Masks, whole words, and bytes: what the language objectives are made of."""

from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from support.tiny_tasks import tiny_tokenizer
from troika_api.v1alpha1.run import RUN
from troika_trainer.tasks.denoising import Denoising, sentinels
from troika_trainer.tasks.masked_lm import MaskedLM, continuing_tokens
from troika_trainer.tokenizer import token_bytes

TEXT = "the unbelievable hippopotamus sat down , and said : never"
WORDS = ["the cat sat down and said never", "un believ able", "hippo pot amus , : the the"]


def run_of(objective: str, model: dict[str, Any], **masking: Any) -> Any:
    return RUN.validate_python(
        {
            "kind": "PretrainJob",
            "name": "x",
            "objective": objective,
            "model": {"config": model},
            "masking": masking,
            "data": {"train": {"uri": "/x"}, "sequenceLength": 64},
            "training": {"steps": 1},
            "checkpoint": {"uri": "/x"},
            "output": {"uri": "/y"},
        }
    )


@pytest.fixture(scope="module", params=["WordPiece", "ByteLevelBPE"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return tiny_tokenizer(WORDS * 5, algorithm=request.param)


def test_a_token_goes_on_with_a_word_or_begins_one(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = tokenizer(TEXT, add_special_tokens=False)
    words = encoded.word_ids()
    begins = [a != b for a, b in zip(words, [None, *words], strict=False)]
    continues = continuing_tokens(tokenizer)[np.asarray(encoded["input_ids"])]
    assert (~continues).tolist()[1:] == begins[1:], "the first of a text bears no mark"


def test_whole_words_are_hidden_or_none_of_them(tokenizer: PreTrainedTokenizerFast) -> None:
    run = run_of("MaskedLM", {"model_type": "bert"}, wholeWord=True, probability=0.3)
    task = MaskedLM(run, tokenizer)
    encoded = tokenizer(TEXT)
    tokens = np.tile(np.asarray(encoded["input_ids"]), (200, 1))
    batch = task.collate(tokens, np.arange(200), np.zeros(200, dtype=np.int64))
    chosen = (batch.labels != -100).numpy()
    words = encoded.word_ids()
    for word in {word for word in words if word is not None}:
        of_word = chosen[:, [at for at, other in enumerate(words) if other == word]]
        assert (of_word.all(axis=1) == of_word.any(axis=1)).all()
    assert chosen[:, 1:-1].mean() == pytest.approx(0.3, abs=0.05)
    assert not chosen[:, [0, -1]].any()


def test_what_stands_in_for_a_token_is_never_a_special_one() -> None:
    """Padding in the middle of a row would move the positions of all that follows in RoBERTa."""
    run = run_of("MaskedLM", {"model_type": "bert"}, probability=0.9999)
    task = MaskedLM(run, tiny_tokenizer(WORDS * 5))
    special = task.tokenizer.all_special_ids
    ordinary = np.setdiff1d(np.arange(len(task.tokenizer)), special)
    tokens = np.tile(ordinary, (1000, 1))
    batch = task.collate(tokens, np.arange(1000), np.zeros(1000, dtype=np.int64))
    seen = batch.inputs["input_ids"].numpy()
    masked = seen == task.tokenizer.mask_token_id
    assert len(special) > 2
    assert masked.mean() == pytest.approx(0.8, abs=0.02)
    assert np.isin(seen[~masked], ordinary).all()
    others = seen[~masked & (seen != tokens)]
    assert set(others.tolist()) == set(ordinary.tolist())
    assert len(others) / tokens.size == pytest.approx(0.1, abs=0.02)


def test_every_byte_of_the_text_belongs_to_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenizer("the cat sat down and said never the cat")["input_ids"]
    total = int(token_bytes(tokenizer)[tokens].sum())
    begins_with_blank = "##" in " ".join(tokenizer.get_vocab())
    assert total == len(b"the cat sat down and said never the cat") + begins_with_blank


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_denoising_hides_the_same_spans_whoever_asks(kind: str) -> None:
    run = run_of("Denoising", {"model_type": kind})
    special = sentinels(run)
    assert len(special) == (100 if kind == "t5" else 0)
    words = tiny_tokenizer(WORDS * 5, algorithm="ByteLevelBPE", extra=special)
    task = Denoising(run, words)
    tokens = np.tile(np.asarray(words(TEXT * 2)["input_ids"]), (6, 1))
    numbers, epochs = np.arange(6), np.array([0, 0, 0, 1, 1, 1])
    batch = task.collate(tokens, numbers, epochs)
    alone = task.collate(tokens[:1], numbers[4:5], epochs[4:5])
    length = int((alone.labels != -100).sum())
    assert batch.labels[4, :length].tolist() == alone.labels[0, :length].tolist()
    assert len({tuple(row.tolist()) for row in batch.inputs["input_ids"]}) > 1
    assert batch.weight == int((batch.labels != -100).sum())
    if kind == "bart":
        assert batch.labels.tolist() == tokens.tolist(), "BART writes the whole text"
    else:
        assert batch.labels.shape[1] < tokens.shape[1] / 2, "T5 writes what is missing"
