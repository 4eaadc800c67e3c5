"""Tokenizers: learnt from the training text, or loaded; always a fast one of transformers."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    CONFIG_MAPPING,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from typing_extensions import override

from troika_api.v1alpha1.data import TokenizerTraining
from troika_api.v1alpha1.run import PretrainRun

from .errors import ConfigError
from .loading import cannot_load, lacks_package
from .preprocessor import Preprocessing, Rows
from .rows import text_column
from .runfile import Run

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

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

_SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")
_MODEL_MAX_LENGTH = 1_000_000
"""The run's sequence length rules, not the tokenizer's."""

_FAST = (
    "start from a model whose tokenizer is a tokenizer.json, such as T5, BART, mBART or NLLB; "
    "those of Marian and M2M100 have none"
)

_INPUTS = ("input_ids", "attention_mask")
_TOKEN_TYPES = "token_type_ids"  # noqa: S105 - an argument of models


def train_tokenizer(  # noqa: PLR0913 - each decides what a text becomes
    texts: Texts,
    spec: TokenizerTraining,
    *,
    algorithm: str,
    bidirectional: bool,
    token_types: bool = False,
    extra: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """Learn a vocabulary; the same text gives the same one.

    Args:
        texts: The training text, a document at a time; asked for more than once.
        spec: Size and folding of case.
        algorithm: WordPiece or ByteLevelBPE.
        bidirectional: Frame each text with a class and an end token, and have a mask token.
        token_types: Tell the model which text of a pair a token is of.
        extra: Special tokens beyond the usual ones; they are part of the size.
    """
    if algorithm == "WordPiece":
        names = _BERT
        tokenizer = _word_piece(texts, spec, [*names.values(), *extra])
    else:
        names = _ROBERTA if bidirectional else _GPT
        tokenizer = _byte_level_bpe(texts, spec, [*dict.fromkeys(names.values()), *extra])
    if bidirectional:
        first, last = names["cls_token"], names["sep_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in (first, last)],
        )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=_MODEL_MAX_LENGTH,
        model_input_names=[*_INPUTS, *[_TOKEN_TYPES] * token_types],
        extra_special_tokens=list(extra),
        **names,
    )


def _word_piece(texts: Texts, spec: TokenizerTraining, special: list[str]) -> Tokenizer:
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


def _byte_level_bpe(texts: Texts, spec: TokenizerTraining, special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if spec.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def load_tokenizer(path: str, *, trust_remote_code: bool) -> PreTrainedTokenizerFast:
    """Load a tokenizer from a directory or the hub.

    Raises:
        ConfigError: there is none, or only a slow one, or one that needs a package.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except ImportError as error:
        raise lacks_package("a tokenizer", path, error, remedy=_FAST) from error
    except (OSError, ValueError, KeyError) as error:
        raise cannot_load(
            "a tokenizer",
            path,
            error,
            remedy="name a directory that holds tokenizer.json and tokenizer_config.json",
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(
            f"the tokenizer in {path} has no tokenizer.json; a fast one is needed", _FAST
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.sep_token
    return tokenizer


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash of everything that decides what a text becomes, also in the hands of another job."""
    parts = [
        tokenizer.backend_tokenizer.to_str(),
        json.dumps(tokenizer.special_tokens_map),
        json.dumps([tokenizer.model_input_names, tokenizer.model_max_length]),
        json.dumps(tokenizer.chat_template),
    ]
    return sha256("\n".join(parts).encode()).hexdigest()


def has_token_types(fields: dict[str, Any]) -> bool:
    """Whether a model of this configuration tells the two texts of a pair apart by token types.

    One that does not may refuse them: its tokenizer must not give any.
    """
    kind = str(fields.get("model_type"))
    known = CONFIG_MAPPING[kind]() if kind in CONFIG_MAPPING else None
    return int(fields.get("type_vocab_size", getattr(known, "type_vocab_size", 0))) > 1


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> npt.NDArray[np.int64]:
    """UTF-8 bytes of text that each token stands for; special tokens stand for none. Shape [size].

    Byte-level BPE writes a byte as one character. SentencePiece writes a blank as one of its own
    and bytes without a character as <0x..>. WordPiece leaves blanks out: the first token of a word
    counts one for the blank before it.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_tokens)
    size: Callable[[str], int] = _plain_bytes
    if isinstance(tokenizer.backend_tokenizer.model, models.WordPiece):
        size = _word_piece_bytes
    elif any(token.startswith("Ġ") for token in tokens):
        size = len
    return np.array([0 if token in special else size(token) for token in tokens], dtype=np.int64)


def _plain_bytes(token: str) -> int:
    return 1 if _BYTE.fullmatch(token) else len(token.replace("▁", " ").encode())


def _word_piece_bytes(token: str) -> int:
    return len(token.removeprefix("##").encode()) + (not token.startswith("##"))


class Tokenizers(Preprocessing):
    """Text: a tokenizer learnt from the training rows, or the one that comes with the model."""

    name = "tokenizer"

    def __init__(
        self,
        *,
        algorithm: str,
        bidirectional: bool,
        extra: Callable[[Run], Sequence[str]] = lambda _: (),
    ) -> None:
        self.algorithm = algorithm
        """Where the run names none."""
        self.bidirectional = bidirectional
        """Whether text is framed by special tokens and can be masked."""
        self.special = extra
        """Special tokens beyond the usual ones."""

    @override
    def load(self, path: str, *, trust_remote_code: bool) -> PreTrainedTokenizerFast:
        return load_tokenizer(path, trust_remote_code=trust_remote_code)

    @override
    def path(self, run: Run) -> str | None:
        named = run.tokenizer.path if isinstance(run, PretrainRun) else None
        if not (named or run.model.path):
            raise ConfigError("tokenizer: set train or path, for a model from a config brings none")
        return named or run.model.path

    @override
    def recipe(self, run: Run) -> Any | None:
        spec = run.tokenizer.train if isinstance(run, PretrainRun) else None
        if spec is None:
            return None
        algorithm = spec.algorithm or self.algorithm
        return [
            run.data.train.column,
            spec.wire(),
            algorithm,
            self.bidirectional,
            has_token_types(run.model.config or {}),
            list(self.special(run)),
        ]

    @override
    def make(self, run: Run, rows: Rows) -> PreTrainedTokenizerFast:
        assert isinstance(run, PretrainRun)
        spec, column = run.tokenizer.train, run.data.train.column
        assert spec is not None

        def texts() -> Iterator[str]:
            return (row.text(text_column(row, column)) for row in rows())

        return train_tokenizer(
            texts,
            spec,
            algorithm=spec.algorithm or self.algorithm,
            bidirectional=self.bidirectional,
            token_types=has_token_types(run.model.config or {}),
            extra=self.special(run),
        )

    @override
    def fingerprint(self, preprocessor: PreTrainedTokenizerFast) -> str:
        return fingerprint(preprocessor)

    @override
    def model_settings(
        self,
        preprocessor: PreTrainedTokenizerFast,
        fields: dict[str, Any],
        known: PretrainedConfig,
    ) -> dict[str, Any]:
        vocabulary = len(preprocessor)
        if fields.get("vocab_size", vocabulary) < vocabulary:
            raise ConfigError(
                f"model.config.vocab_size {fields['vocab_size']} is smaller than the tokenizer's "
                f"{vocabulary}",
                "leave it out: it is taken from the tokenizer",
            )
        special = {
            f"{name}_token_id": getattr(preprocessor, f"{name}_token_id", None)
            for name in _SPECIAL
            if hasattr(known, f"{name}_token_id")
        }
        return {"vocab_size": vocabulary, **special}

    @override
    def check(
        self, preprocessor: PreTrainedTokenizerFast, model: PretrainedConfig, path: str
    ) -> None:
        vocabulary = model.get_text_config().vocab_size or 0
        if vocabulary < len(preprocessor):
            raise ConfigError(
                f"the tokenizer has {len(preprocessor)} tokens, the model in {path} "
                f"only {vocabulary}",
                "use the tokenizer that the model was trained with",
            )
        if model.pad_token_id is None:
            model.pad_token_id = preprocessor.pad_token_id
