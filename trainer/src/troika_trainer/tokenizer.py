"""Tokenizers: learnt from the training text, or loaded; always a fast one of transformers."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import sha256

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from troika_api.v1alpha1.data import TokenizerTraining

from .errors import ConfigError

_BERT = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_ROBERTA = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
_GPT = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|padding|>"}

Texts = Callable[[], Iterable[str]]

ALPHABET_LIMIT = 1000
"""Letters that WordPiece knows; rarer ones become unknown, as in BERT."""

_MODEL_MAX_LENGTH = 1_000_000
"""The run's sequence length rules, not the tokenizer's."""


def train_tokenizer(
    texts: Texts, spec: TokenizerTraining, *, algorithm: str, bidirectional: bool
) -> PreTrainedTokenizerFast:
    """Learn a vocabulary; the same text gives the same one.

    Args:
        texts: The training text, a document at a time; asked for more than once.
        spec: Size and folding of case.
        algorithm: WordPiece or ByteLevelBPE.
        bidirectional: Frame each text with a class and an end token, and have a mask token.
    """
    if algorithm == "WordPiece":
        tokenizer, names = _word_piece(texts, spec), _BERT
    else:
        names = _ROBERTA if bidirectional else _GPT
        tokenizer = _byte_level_bpe(texts, spec, names)
    if bidirectional:
        first, last = names["cls_token"], names["sep_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in (first, last)],
        )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, model_max_length=_MODEL_MAX_LENGTH, **names
    )


def _word_piece(texts: Texts, spec: TokenizerTraining) -> Tokenizer:
    special = list(_BERT.values())
    normalizer = normalizers.BertNormalizer(lowercase=spec.lowercase, strip_accents=spec.lowercase)
    alphabet = _alphabet(normalizer.normalize_str(text) for text in texts())
    # The trainer numbers the continuing letters (##a) in the order of a hash map, and breaks ties
    # between merges by those numbers: each time another vocabulary (huggingface/tokenizers#1794).
    # Told beforehand, they have an order; as special tokens they are told.
    continuing = [f"##{letter}" for letter in alphabet if letter.isalnum()]
    trainer = trainers.WordPieceTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=special + continuing,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner = Tokenizer(models.WordPiece(unk_token=_BERT["unk_token"]))
    learner.normalizer = normalizer
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    learner.train_from_iterator(texts(), trainer)
    tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token=_BERT["unk_token"]))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _alphabet(texts: Iterable[str]) -> list[str]:
    """The most frequent letters, in an order that depends on the text alone."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    frequent = sorted(counts, key=lambda letter: (-counts[letter], letter))
    return sorted(letter for letter in frequent[:ALPHABET_LIMIT] if not letter.isspace())


def _byte_level_bpe(texts: Texts, spec: TokenizerTraining, names: dict[str, str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if spec.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=list(dict.fromkeys(names.values())),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def load_tokenizer(path: str, *, trust_remote_code: bool) -> PreTrainedTokenizerFast:
    """Load a tokenizer from a directory or the hub.

    Raises:
        ConfigError: there is none, or only a slow one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"cannot load a tokenizer from {path}: {str(error).splitlines()[0]}",
            "name a directory that holds tokenizer.json and tokenizer_config.json",
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(f"the tokenizer in {path} has no tokenizer.json; a fast one is needed")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
    return tokenizer


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash of everything that decides which tokens a text becomes."""
    parts = [tokenizer.backend_tokenizer.to_str(), json.dumps(tokenizer.special_tokens_map)]
    return sha256("\n".join(parts).encode()).hexdigest()
