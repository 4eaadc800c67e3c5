"""Denoising: restore what was hidden (T5's span corruption, BART's text infilling)."""

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import IGNORED, Batch, Integers, places_of, with_decoder_inputs
from troika_trainer.errors import ConfigError
from troika_trainer.flops import FlopCounter, two_sided_counter
from troika_trainer.heads import Head
from troika_trainer.noise import Holes, infilled, span_mask, with_sentinels
from troika_trainer.runfile import Run, local_or_hub
from troika_trainer.tokenizer import Tokenizers

from .base import no_predictions
from .language import LanguageTask

WITH_SENTINELS = ("t5", "mt5", "umt5", "longt5", "switch_transformers")
WITH_MASKS = ("bart", "mbart", "mvp", "plbart", "led")

CORRUPTED, MASKED = 0.15, 0.3
"""Share of the tokens that T5 and BART hide, where the run does not say."""

NUM_SENTINELS = 100
_SENTINEL = re.compile(r"<extra_id_(\d+)>")

Pair = tuple[Integers, Integers]


def architecture(run: Run) -> str:
    """Transformers' name of the model's type."""
    if run.model.config is not None:
        return str(run.model.config.get("model_type"))
    config = AutoConfig.from_pretrained(
        local_or_hub(run.model.path or ""), trust_remote_code=run.model.trust_remote_code
    )
    return str(config.model_type)


def sentinels(run: Run) -> tuple[str, ...]:
    """The tokens that stand for what is hidden, where the architecture has them."""
    if architecture(run) not in WITH_SENTINELS:
        return ()
    return tuple(f"<extra_id_{number}>" for number in range(NUM_SENTINELS))


class Denoising(LanguageTask):
    """An encoder reads text with holes, a decoder writes what is missing or the whole text."""

    auto_model = AutoModelForSeq2SeqLM
    pipeline_tag = "text2text-generation"
    preprocessing = Tokenizers(algorithm="ByteLevelBPE", bidirectional=True, extra=sentinels)

    @cached_property
    def _corrupt(self) -> Callable[[Integers, np.random.Generator], Pair]:
        """The noise of the architecture: tokens to source and target."""
        kind = architecture(self.run)
        if kind in WITH_SENTINELS:
            return self._spans
        if kind in WITH_MASKS:
            return self._infilling
        raise ConfigError(
            f"Denoising does not know how {kind!r} models learn",
            f"use one of {', '.join((*WITH_SENTINELS, *WITH_MASKS))}",
        )

    @cached_property
    def _sentinels(self) -> Integers:
        found = {
            int(match[1]): number
            for token, number in self.tokenizer.get_vocab().items()
            if (match := _SENTINEL.fullmatch(token))
        }
        if not found:
            raise ConfigError(
                "the tokenizer has no sentinels: expected tokens <extra_id_0>, <extra_id_1>, ...",
                "set tokenizer.train, or name the tokenizer of a T5",
            )
        return np.array([found[name] for name in sorted(found)])

    def _spans(self, tokens: Integers, chance: np.random.Generator) -> Pair:
        hidden = span_mask(len(tokens), self._holes(CORRUPTED), chance) & self._ordinary(tokens)
        return with_sentinels(tokens, hidden, self._sentinels, end=self._end)

    def _infilling(self, tokens: Integers, chance: np.random.Generator) -> Pair:
        mask = self.tokenizer.mask_token_id
        if mask is None:
            raise ConfigError(
                "text infilling needs a tokenizer with a mask token", "train one, or name another"
            )
        ordinary = self._ordinary(tokens)
        source = infilled(tokens, ordinary, self._holes(MASKED), mask=mask, chance=chance)
        return source, tokens

    def _holes(self, share: float) -> Holes:
        masking = self.spec.masking
        return Holes(masking.probability or share, masking.span_length)

    @override
    def flop_counter(self, model: PreTrainedModel) -> FlopCounter | None:
        holes = self._holes(MASKED if architecture(self.run) in WITH_MASKS else CORRUPTED)
        # Either noise leaves what is not hidden, and a token for each span.
        return two_sided_counter(model, read=1 - holes.share + holes.share / holes.span)

    def _ordinary(self, tokens: Integers) -> Any:
        return ~np.isin(tokens, self.tokenizer.all_special_ids)

    @property
    def _end(self) -> int:
        end = self.tokenizer.eos_token_id
        if end is None:
            raise ConfigError("Denoising needs a tokenizer with an end-of-text token")
        return int(end)

    @override
    def collate(self, tokens: Integers, indices: Integers, epochs: Integers) -> Batch:
        """The holes depend on seed, epoch and sequence, and on nothing else."""
        seed = self.run.training.seed
        pairs = [
            self._corrupt(row, np.random.default_rng([seed, int(epoch), int(index)]))
            for row, index, epoch in zip(tokens, indices, epochs, strict=True)
        ]
        sources, targets = zip(*pairs, strict=True)
        pad = self.tokenizer.pad_token_id or 0
        inputs = {"input_ids": _filled(sources, pad)}
        read, written = (torch.tensor([len(row) for row in side]) for side in (sources, targets))
        real = torch.arange(inputs["input_ids"].shape[1])[None, :] < read[:, None]
        if not real.all():
            inputs["attention_mask"] = real.long()
        labels = _filled(targets, IGNORED)
        return Batch(
            inputs=inputs,
            labels=labels,
            places=places_of(labels),
            weight=int(written.sum()),
            tokens=tokens.size,
            # The encoder looks at the source, the decoder at itself and at the source.
            pairs=int((read**2 + written**2 + read * written).sum()),
        )

    @override
    def model_settings(self) -> dict[str, Any]:
        if self.run.model.path is not None:
            return {}  # the model says itself where its decoder begins
        masks = architecture(self.run) in WITH_MASKS
        pad = self.tokenizer.pad_token_id
        return {"decoder_start_token_id": self._end if masks else pad}

    @override
    def attach(self, model: PreTrainedModel) -> None:
        self._head = Head(model)

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        told, wanted = with_decoder_inputs(batch, model.config), batch.labels[batch.where]
        return self._head.loss(model, told, batch.where, wanted), no_predictions(batch)


def _filled(rows: tuple[Integers, ...], fill: int) -> torch.Tensor:
    """Rows of many lengths, filled up at the end. Shape [rows, longest], int64."""
    full = np.full((len(rows), max(len(row) for row in rows)), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        full[number, : len(row)] = row
    return torch.from_numpy(full)
