"""MaskedLM: predict the tokens that were hidden (BERT, RoBERTa, DistilBERT, ELECTRA's encoder)."""

from enum import IntEnum

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForMaskedLM, PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import Batch, Examples, Integers
from troika_trainer.errors import ConfigError
from troika_trainer.randomness import draw, uniform

from .base import Measured, no_predictions
from .language import LanguageTask

IGNORED = -100


class _Draw(IntEnum):
    """Independent streams of chance."""

    CHOICE = 1
    HOW = 2
    TOKEN = 3


class MaskedLM(LanguageTask):
    """Of the chosen tokens 80 % are masked, 10 % replaced by a random one, 10 % kept."""

    auto_model = AutoModelForMaskedLM
    pipeline_tag = "fill-mask"
    tokenizer_algorithm = "WordPiece"
    bidirectional = True

    @override
    def collate(self, tokens: Integers, indices: Integers, epochs: Integers) -> Batch:
        """The masks depend on seed, epoch, sequence and position, and on nothing else."""
        mask_id = self.tokenizer.mask_token_id
        point = (epochs[:, None], indices[:, None], np.arange(tokens.shape[1])[None, :])
        seed = self.run.training.seed
        ordinary = ~np.isin(tokens, self.tokenizer.all_special_ids)
        share = self.spec.masking.probability
        chosen = ordinary & (uniform(seed, _Draw.CHOICE, *point) < share)
        how = uniform(seed, _Draw.HOW, *point)
        others = (draw(seed, _Draw.TOKEN, *point) % np.uint64(len(self.tokenizer))).astype(np.int64)
        hidden = np.where(how < 0.8, mask_id, np.where(how < 0.9, others, tokens))
        return Batch(
            inputs={"input_ids": torch.from_numpy(np.where(chosen, hidden, tokens))},
            labels=torch.from_numpy(np.where(chosen, tokens, IGNORED)),
            weight=int(chosen.sum()),
            tokens=tokens.size,
            pairs=tokens.shape[0] * tokens.shape[1] ** 2,
        )

    @override
    def attach(self, model: PreTrainedModel) -> None:
        if self.tokenizer.mask_token_id is None:
            raise ConfigError(
                "MaskedLM needs a tokenizer with a mask token", "train one, or name another"
            )
        self._sparse = HeadWhereAsked(model)

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        where = (batch.labels != IGNORED).nonzero(as_tuple=True)
        wanted = batch.labels[where]
        logits = self._sparse.logits(model, batch, where).float()
        loss = cross_entropy(logits, wanted, reduction="sum")
        if model.training:
            return loss, no_predictions(batch)
        right = (logits.argmax(-1) == wanted).long()
        return loss, torch.zeros_like(batch.labels[:, 0]).index_add_(0, where[0], right)

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        right = float(measured.predictions.sum())
        return {
            **super().metrics(measured, examples),
            "accuracy": right / max(measured.weight, 1),
        }


class HeadWhereAsked:
    """Runs the head of a model on some positions only: at 15 % masks it is most of the work.

    Between body and head the hidden states are replaced by those of the positions asked for. That
    is exact for every head that looks at one position at a time; whether this one does is tried.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._where: tuple[torch.Tensor, ...] | None = None
        self._hook = model.base_model.register_forward_hook(self._pick)
        if not self._is_exact(model):
            self._hook.remove()
            self._exact = False

    _exact = True

    def logits(
        self, model: PreTrainedModel, batch: Batch, where: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """Logits of the positions `where` (rows, columns). Shape [positions, vocabulary]."""
        if not self._exact:
            full: torch.Tensor = model(**batch.inputs).logits
            return full[where]
        self._where = where
        try:
            sparse: torch.Tensor = model(**batch.inputs).logits
            return sparse[0]
        finally:
            self._where = None

    def _pick(self, _module: object, _args: object, output: object) -> object:
        if self._where is not None:
            hidden: torch.Tensor = output["last_hidden_state"]  # type: ignore[index]
            output["last_hidden_state"] = hidden[self._where][None]  # type: ignore[index]
        return output

    @torch.no_grad()
    def _is_exact(self, model: PreTrainedModel) -> bool:
        ids = torch.arange(5, 21, device=model.device).reshape(2, 8) % model.config.vocab_size
        mode, where = model.training, (torch.tensor([0, 1, 1]), torch.tensor([3, 0, 6]))
        model.train(mode=False)
        try:
            full = model(input_ids=ids).logits[where]
            self._where = where
            sparse = model(input_ids=ids).logits
            return sparse.shape[:2] == (1, 3) and torch.allclose(sparse[0], full, atol=1e-5)
        except (RuntimeError, KeyError, TypeError, IndexError):
            return False
        finally:
            self._where = None
            model.train(mode)
