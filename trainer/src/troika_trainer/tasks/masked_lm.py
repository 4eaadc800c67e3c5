"""MaskedLM: predict the tokens that were hidden (BERT, RoBERTa, DistilBERT, ELECTRA's encoder)."""

from dataclasses import replace
from enum import IntEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from tokenizers.models import WordPiece
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast
from typing_extensions import override

from troika_trainer.batch import IGNORED, Batch, Examples, Integers, places_of
from troika_trainer.errors import ConfigError
from troika_trainer.heads import Head
from troika_trainer.packing import LONGEST_TRIAL, Encoder, check_model
from troika_trainer.randomness import draw, uniform
from troika_trainer.tokenizer import Tokenizers

from .base import Measured, no_predictions
from .language import LanguageTask

DEFAULT_SHARE = 0.15
"""Of the tokens that must be predicted, as in BERT."""


_BEGINNINGS = "Ġ▁Ċĉč"
"""Blank, line break and tab, as byte-level BPE and SentencePiece write them."""


class _Draw(IntEnum):
    """Independent streams of chance."""

    CHOICE = 1
    HOW = 2
    TOKEN = 3


class MaskedLM(LanguageTask):
    """Of the chosen tokens 80 % are masked, 10 % replaced by a random one, 10 % kept."""

    auto_model = AutoModelForMaskedLM
    pipeline_tag = "fill-mask"
    preprocessing = Tokenizers(algorithm="WordPiece", bidirectional=True)

    @override
    def collate(self, tokens: Integers, indices: Integers, epochs: Integers) -> Batch:
        """The masks depend on seed, epoch, sequence and position, and on nothing else."""
        mask_id = self.tokenizer.mask_token_id
        point = (epochs[:, None], indices[:, None], np.arange(tokens.shape[1])[None, :])
        seed = self.run.training.seed
        ordinary = ~np.isin(tokens, self.tokenizer.all_special_ids)
        unit = self._word_starts(tokens) if self.spec.masking.whole_word else point[2]
        share = self.spec.masking.probability or DEFAULT_SHARE
        chosen = ordinary & (uniform(seed, _Draw.CHOICE, *point[:2], unit) < share)
        how = uniform(seed, _Draw.HOW, *point)
        others = self._words[draw(seed, _Draw.TOKEN, *point) % np.uint64(len(self._words))]
        hidden = np.where(how < 0.8, mask_id, np.where(how < 0.9, others, tokens))
        labels = torch.from_numpy(np.where(chosen, tokens, IGNORED))
        return Batch(
            inputs={"input_ids": torch.from_numpy(np.where(chosen, hidden, tokens))},
            labels=labels,
            places=places_of(labels),
            weight=int(chosen.sum()),
            tokens=tokens.size,
            pairs=tokens.shape[0] * tokens.shape[1] ** 2,
        )

    def _word_starts(self, tokens: Integers) -> Integers:
        """Where the word of each token begins; all tokens of a word share one draw. Same shape."""
        begins = ~self._continues[tokens]
        at = np.where(begins, np.arange(tokens.shape[1])[None, :], 0)
        return np.maximum.accumulate(at, axis=1)

    @cached_property
    def _words(self) -> Integers:
        """What may stand in for another: RoBERTa would take padding for the end. Shape [tokens]."""
        return np.setdiff1d(np.arange(len(self.tokenizer)), self.tokenizer.all_special_ids)

    @cached_property
    def _continues(self) -> npt.NDArray[np.bool_]:
        return continuing_tokens(self.tokenizer)

    @override
    def attach(self, model: PreTrainedModel) -> None:
        if self.tokenizer.mask_token_id is None:
            raise ConfigError(
                "MaskedLM needs a tokenizer with a mask token", "train one, or name another"
            )
        self._head = Head(model)
        if self.spec.data.packing:
            self._encoder = Encoder(model)
            room = min(self.spec.data.sequence_length, LONGEST_TRIAL)
            check_model(model, told=self._encoder.told, room=room)

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if self.spec.data.packing:
            batch = replace(batch, inputs=self._encoder.told(batch.inputs))
        where = batch.where
        wanted = batch.labels[where]
        if model.training:
            return self._head.loss(model, batch, where, wanted), no_predictions(batch)
        logits = self._head.logits(model, batch, where)
        loss = cross_entropy(logits, wanted, reduction="sum")
        right = (logits.argmax(-1) == wanted).long()
        return loss, torch.zeros_like(batch.labels[:, 0]).index_add_(0, where[0], right)

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        right = float(measured.predictions.sum())
        return {
            **super().metrics(measured, examples),
            "accuracy": right / max(measured.weight, 1),
        }


def continuing_tokens(tokenizer: PreTrainedTokenizerFast) -> npt.NDArray[np.bool_]:
    """Which tokens of the vocabulary go on with a word. Shape [vocabulary].

    WordPiece marks them with ##. Byte-level BPE and SentencePiece mark beginnings instead: a token
    without that mark goes on with a word where it starts with a letter or digit, and is
    punctuation, a unit of its own, where not.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if isinstance(tokenizer.backend_tokenizer.model, WordPiece):
        return np.array([token.startswith("##") for token in tokens])
    special = set(tokenizer.all_special_tokens)
    return np.array(
        [
            token not in special and token[:1].isalnum() and token[:1] not in _BEGINNINGS
            for token in tokens
        ]
    )
