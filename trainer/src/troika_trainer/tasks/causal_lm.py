"""CausalLM: predict the next token (GPT-2, Llama, Qwen: anything AutoModelForCausalLM builds)."""

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import Batch, Integers

from .base import no_predictions
from .language import LanguageTask


class CausalLM(LanguageTask):
    """Every position predicts the one after it."""

    auto_model = AutoModelForCausalLM
    pipeline_tag = "text-generation"
    tokenizer_algorithm = "ByteLevelBPE"
    bidirectional = False

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
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits: torch.Tensor = model(**batch.inputs, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten(), reduction="sum")
        return loss, no_predictions(batch)
