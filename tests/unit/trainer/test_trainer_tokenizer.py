"""A tokenizer learnt from text is a transformers one, and the same text gives the same one."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from support.trainer_runs import LICENSE
from troika_api.v1alpha1.data import TokenizerTraining
from troika_trainer.errors import ConfigError
from troika_trainer.tokenizer import (
    fingerprint,
    has_token_types,
    load_tokenizer,
    train_tokenizer,
)

KINDS = [("WordPiece", True), ("ByteLevelBPE", True), ("ByteLevelBPE", False)]


def trained(
    algorithm: str, *, bidirectional: bool, size: int = 500, lowercase: bool = False
) -> PreTrainedTokenizerFast:
    return train_tokenizer(
        lambda: LICENSE.read_text().splitlines(),
        TokenizerTraining(vocab_size=size, lowercase=lowercase),
        algorithm=algorithm,
        bidirectional=bidirectional,
    )


@pytest.mark.parametrize(("algorithm", "bidirectional"), KINDS)
def test_the_same_text_gives_the_same_tokenizer(algorithm: str, *, bidirectional: bool) -> None:
    made = {fingerprint(trained(algorithm, bidirectional=bidirectional)) for _ in range(4)}
    assert len(made) == 1


@pytest.mark.parametrize(("algorithm", "bidirectional"), KINDS)
def test_a_saved_tokenizer_is_loaded_as_it_was(
    tmp_path: Path, algorithm: str, *, bidirectional: bool
) -> None:
    made = trained(algorithm, bidirectional=bidirectional)
    made.save_pretrained(tmp_path)
    for loaded in (
        load_tokenizer(str(tmp_path), trust_remote_code=False),
        AutoTokenizer.from_pretrained(tmp_path),
    ):
        assert isinstance(loaded, PreTrainedTokenizerFast)
        text = "Licensor shall mean the copyright owner!"
        assert loaded(text)["input_ids"] == made(text)["input_ids"]
        assert fingerprint(loaded) == fingerprint(made)
        assert len(loaded) == 500


@pytest.mark.parametrize(
    ("model_type", "algorithm"),
    [
        ("bert", "WordPiece"),
        ("distilbert", "WordPiece"),
        ("electra", "WordPiece"),
        ("roberta", "ByteLevelBPE"),
        ("roberta", "WordPiece"),
        ("modernbert", "ByteLevelBPE"),
        ("deberta-v2", "WordPiece"),
        ("albert", "WordPiece"),
        ("bart", "ByteLevelBPE"),
        ("t5", "ByteLevelBPE"),
        ("gpt2", "ByteLevelBPE"),
        ("llama", "ByteLevelBPE"),
        ("qwen3", "ByteLevelBPE"),
    ],
)
def test_beside_a_model_it_is_loaded_as_it_was(
    tmp_path: Path, model_type: str, algorithm: str
) -> None:
    """Transformers looks at the model's type, and might think it knows better what belongs to it.

    RoBERTa's own puts two end tokens between the texts of a pair, ours one: what counts is that
    whoever loads it gets what the model was trained on.
    """
    both_ways = model_type not in ("gpt2", "llama", "qwen3")
    made = train_tokenizer(
        lambda: LICENSE.read_text().splitlines(),
        TokenizerTraining(vocab_size=500),
        algorithm=algorithm,
        bidirectional=both_ways,
        token_types=has_token_types({"model_type": model_type}),
        extra=["<extra_id_0>", "<extra_id_1>"] if model_type == "t5" else [],
    )
    AutoConfig.for_model(model_type, vocab_size=len(made)).save_pretrained(tmp_path)
    made.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    text = "Licensor  shall mean the <owner>, naïve or not!"
    for texts in ((text,), (text, "And  so on")):
        assert dict(loaded(*texts)) == dict(made(*texts))
    if both_ways:
        tokens = loaded.convert_ids_to_tokens(loaded(text)["input_ids"])
        frame = ["<s>", "</s>"] if algorithm == "ByteLevelBPE" else ["[CLS]", "[SEP]"]
        assert [tokens[0], tokens[-1]] == frame
    assert loaded.special_tokens_map == made.special_tokens_map
    assert fingerprint(loaded) == fingerprint(made)


def test_word_piece_frames_and_masks_like_bert() -> None:
    made = trained("WordPiece", bidirectional=True, lowercase=True)
    assert made.convert_ids_to_tokens(list(range(5))) == [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]
    tokens = made.convert_ids_to_tokens(made("The LICENSE", "a word")["input_ids"])
    assert tokens[:2] == ["[CLS]", "the"]
    assert tokens.count("[SEP]") == 2
    assert made.decode(made("the copyright owner")["input_ids"], skip_special_tokens=True) == (
        "the copyright owner"
    )
    assert len([token for token in made.all_special_tokens if token.startswith("##")]) == 0


@pytest.mark.parametrize(
    ("config", "gives"),
    [
        ({"model_type": "bert"}, True),
        ({"model_type": "roberta", "type_vocab_size": 1}, False),
        ({"model_type": "distilbert"}, False),
        ({"model_type": "t5"}, False),
        ({"model_type": "llama"}, False),
        ({"model_type": "nonsense"}, False),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_token_types_are_for_models_that_have_them(
    tmp_path: Path, config: dict[str, Any], *, gives: bool
) -> None:
    assert has_token_types(config) is gives
    made = train_tokenizer(
        lambda: ["one text", "and another"],
        TokenizerTraining(vocab_size=256),
        algorithm="WordPiece",
        bidirectional=True,
        token_types=gives,
    )
    made.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    names = {"input_ids", "attention_mask", *["token_type_ids"] * gives}
    assert set(loaded("one text", "and another")) == names
    if gives:
        pair = loaded("one text", "and another")
        ids, types = pair["input_ids"], pair["token_type_ids"]
        assert types == [0] * (ids.index(loaded.sep_token_id) + 1) + [1] * types.count(1)
        assert 0 < types.count(1) < len(types)


def test_byte_level_bpe_knows_every_text() -> None:
    made = trained("ByteLevelBPE", bidirectional=False)
    text = "Zażółć gęślą jaźń 漢字 🙂"
    assert made.decode(made(text)["input_ids"]) == text
    assert made.eos_token == "<|endoftext|>"
    assert made.mask_token is None


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot load a tokenizer from"):
        load_tokenizer(str(tmp_path), trust_remote_code=False)
