"""Regression: a number for a text, or for a pair of texts."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import Batch, Examples
from troika_trainer.errors import DataError
from troika_trainer.measures import mean_absolute_error, mean_squared_error, pearson, spearman
from troika_trainer.report import Mistake, shortened, worst
from troika_trainer.rows import Row
from troika_trainer.shards import ColumnType, Example, Store

from .base import Measured, while_measuring
from .texts import TextTask, ValuedTexts


class Regression(TextTask):
    """Fine-tunes a model with a head of one output, by the mean squared error.

    The head learns the deviation from the training mean in training standard deviations, so that
    prices and probabilities need the same learning rate; `finish` turns it into the user's unit.
    """

    auto_model = AutoModelForSequenceClassification
    pipeline_tag = "text-classification"
    one_prediction_each = True
    mean: float
    scale: float
    """Standard deviation of the training labels."""

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        return {**self.token_columns, "label": ColumnType("float64", ragged=False)}

    @override
    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:
        values = np.array([row.number(self.spec.data.columns.label) for row in rows])
        if not len(values) or values.std() == 0.0:
            raise DataError(
                f"column {self.spec.data.columns.label!r} has "
                f"{'no rows' if not len(values) else f'only the value {values[0]}'} in training",
                "a regression needs numbers that differ; check data.columns.label",
            )
        return {"mean": float(values.mean()), "scale": float(values.std())}

    @override
    def adopt(self, facts: dict[str, Any]) -> None:
        self.mean, self.scale = float(facts["mean"]), float(facts["scale"])

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        part = self.spec.data.columns
        labels = [row.number(part.label) for row in rows]
        texts = [row.text(part.text) for row in rows]
        pairs = [row.text(part.text_pair) for row in rows] if part.text_pair else None
        encoded = self.tokenize(texts, pairs)
        for index, label in enumerate(labels):
            yield {**self.tokens_of(encoded, index), "label": np.asarray(label)}

    @override
    def examples(self, store: Store) -> ValuedTexts:
        return ValuedTexts(store, pad_id=self.pad_id)

    @override
    def model_settings(self) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        scores = model(**batch.inputs).logits.float().squeeze(-1)
        wanted = (batch.labels - self.mean) / self.scale
        loss = mse_loss(scores, wanted.float(), reduction="sum")
        return loss, while_measuring(model, batch, scores * self.scale + self.mean)

    @override
    def attach(self, model: PreTrainedModel) -> None:
        if head_of(model).bias is None:
            self.mean = 0.0  # such a head (GPT-2, Llama) cannot hold a mean

    @override
    def finish(self, model: PreTrainedModel) -> None:
        """Put the unit of the labels into the head."""
        head = head_of(model)
        with torch.no_grad():
            head.weight.mul_(self.scale)
            if head.bias is not None:
                head.bias.mul_(self.scale).add_(self.mean)

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        assert isinstance(examples, ValuedTexts)
        pair = (examples.labels, measured.predictions.astype(np.float64))
        return {
            "loss": measured.loss,
            "pearson": pearson(*pair),
            "spearman": spearman(*pair),
            "mse": mean_squared_error(*pair),
            "mae": mean_absolute_error(*pair),
        }

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        assert isinstance(examples, ValuedTexts)
        wanted, found = examples.labels, measured.predictions.astype(np.float64)
        error = np.abs(found - wanted)
        return worst(
            error,
            lambda index: Mistake(
                row=index + 1,
                text=shortened(self.shown(examples, index)),
                expected=f"{wanted[index]:.4g}",
                predicted=f"{found[index]:.4g}",
                measure="error",
                value=float(error[index]),
            ),
        )


def head_of(model: PreTrainedModel) -> nn.Linear:
    """The layer that gives the number: the last one with one output."""
    layers = [part for part in model.modules() if isinstance(part, nn.Linear)]
    return [layer for layer in layers if layer.out_features == 1][-1]
