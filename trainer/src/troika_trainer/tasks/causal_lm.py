"""CausalLM: predict the next token (GPT-2, Llama, Qwen: anything AutoModelForCausalLM builds)."""

from functools import cached_property
from math import log

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import Batch, Examples, Integers
from troika_trainer.heads import Head
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
    def attach(self, model: PreTrainedModel) -> None:
        self._head = Head(model)

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        loss = self._head.loss_of_next(model, batch)
        if model.training:
            return loss, no_predictions(batch)
        return loss, self._bytes.to(batch.labels.device)[batch.labels].sum(1)

    @cached_property
    def _bytes(self) -> torch.Tensor:
        return torch.from_numpy(token_bytes(self.tokenizer))

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        """Bits per byte compares models whatever their vocabulary; the ends of texts cost bits."""
        total = float(measured.predictions.sum())
        bits = measured.loss * measured.weight / log(2.0)
        return {**super().metrics(measured, examples), "bitsPerByte": bits / max(total, 1.0)}
