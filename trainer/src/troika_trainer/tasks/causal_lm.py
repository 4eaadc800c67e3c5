"""CausalLM: predict the next token (GPT-2, Llama, Qwen: anything AutoModelForCausalLM builds)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from math import log

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import IGNORED, Batch, Examples, Integers, places_of
from troika_trainer.heads import Head
from troika_trainer.packing import check_model
from troika_trainer.tokenizer import Tokenizers, token_bytes

from .base import Measured, no_predictions
from .language import LanguageTask


class CausalLM(LanguageTask):
    """Every position predicts the one after it."""

    auto_model = AutoModelForCausalLM
    pipeline_tag = "text-generation"
    preprocessing = Tokenizers(algorithm="ByteLevelBPE", bidirectional=False)

    @override
    def collate(self, tokens: Integers, indices: Integers, epochs: Integers) -> Batch:
        ids = torch.from_numpy(tokens)
        samples, length = tokens.shape
        return Batch(
            inputs={"input_ids": ids},
            labels=ids[:, 1:].contiguous(),
            weight=samples * (length - 1),
            tokens=tokens.size,
            pairs=samples * length**2,
        )

    @override
    def apart(self, batch: Batch, lengths: Sequence[Integers]) -> Batch:
        """Nothing predicts the first token of a piece, nor is padding predicted."""
        apart = super().apart(batch, lengths)
        firsts = apart.inputs["position_ids"][:, 1:] == 0
        labels = batch.labels.masked_fill(firsts, IGNORED)
        places = places_of(labels)
        return replace(apart, labels=labels, places=places, weight=places.shape[1])

    @override
    def attach(self, model: PreTrainedModel) -> None:
        self._head = Head(model)
        if self.spec.data.packing:
            check_model(model)

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        loss = self._loss(model, batch)
        if model.training:
            return loss, no_predictions(batch)
        known = self._bytes.to(batch.labels.device)[batch.labels.clamp(min=0)]
        return loss, known.masked_fill(batch.labels == IGNORED, 0).sum(1)

    def _loss(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        if not self.spec.data.packing:
            return self._head.loss_of_next(model, batch)
        return self._head.loss(model, batch, batch.where, batch.labels[batch.where])

    @cached_property
    def _bytes(self) -> torch.Tensor:
        return torch.from_numpy(token_bytes(self.tokenizer))

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        """Bits per byte compares models whatever their vocabulary; the ends of texts cost bits."""
        total = float(measured.predictions.sum())
        bits = measured.loss * measured.weight / log(2.0)
        return {**super().metrics(measured, examples), "bitsPerByte": bits / max(total, 1.0)}
