"""TextClassification: one class for a text, or for a pair of texts."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from typing_extensions import override

from troika_api.v1alpha1.run import FinetuneRun
from troika_trainer.batch import Batch, Examples, Integers
from troika_trainer.errors import DataError
from troika_trainer.report import ClassificationReport, classification_report
from troika_trainer.rows import Row
from troika_trainer.shards import Array, ColumnType, Example, Store

from .base import Measured, Task, no_predictions, smallest_dtype


class LabelledTexts:
    """Tokenized texts of many lengths, each with its class."""

    def __init__(self, store: Store, *, pad_id: int) -> None:
        self._ids = store["input_ids"]
        self._types = store.columns.get("token_type_ids")
        self._pad_id = pad_id
        labels = store["label"]
        self.labels = np.asarray(labels.slice(0, len(labels)), dtype=np.int64)
        """Class of every example, shape [examples]."""
        self._lengths = self._ids.lengths

    def __len__(self) -> int:
        return len(self.labels)

    def lengths(self, indices: Integers) -> Integers:
        """Tokens of each text. Shape [samples]."""
        return self._lengths[indices]

    def batch(self, indices: Integers, epochs: Integers) -> Batch:  # noqa: ARG002 - the same in each
        """These texts, padded to the longest of them."""
        lengths = self.lengths(indices)
        real = np.arange(lengths.max())[None, :] < lengths[:, None]
        inputs = {"input_ids": self._padded(self._ids, indices, real, self._pad_id)}
        if self._types is not None:
            inputs["token_type_ids"] = self._padded(self._types, indices, real, 0)
        if not real.all():
            inputs["attention_mask"] = torch.from_numpy(real.astype(np.int64))
        return Batch(
            inputs=inputs,
            labels=torch.from_numpy(self.labels[indices]),
            weight=len(indices),
            tokens=int(lengths.sum()),
            pairs=int((lengths**2).sum()),
        )

    def _padded(self, column: Any, indices: Integers, real: Any, fill: int) -> torch.Tensor:
        padded = np.full(real.shape, fill, dtype=np.int64)
        padded[real] = np.concatenate([column[int(index)] for index in indices])
        return torch.from_numpy(padded)


class TextClassification(Task):
    """Fine-tunes a model with a classification head."""

    auto_model = AutoModelForSequenceClassification
    pipeline_tag = "text-classification"
    names: list[str]
    """Classes; their order is their number."""

    @property
    def spec(self) -> FinetuneRun:
        """The run, which must be one that fine-tunes."""
        assert isinstance(self.run, FinetuneRun)
        return self.run

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        columns = {
            "input_ids": ColumnType(smallest_dtype(len(self.tokenizer))),
            "label": ColumnType("int32", ragged=False),
        }
        if self._has_types:
            columns["token_type_ids"] = ColumnType("uint8")
        return columns

    @property
    def _has_types(self) -> bool:
        return "token_type_ids" in self.tokenizer.model_input_names

    @override
    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:
        found = {row.label(self.spec.data.columns.label) for row in rows}
        if len(found) < 2:
            raise DataError(
                f"the training split has {len(found)} class(es) in column "
                f"{self.spec.data.columns.label!r}: {', '.join(sorted(found)) or 'none'}",
                "a classifier needs at least two; check data.columns.label",
            )
        return {"labels": sorted(found, key=_natural)}

    @override
    def adopt(self, facts: dict[str, Any]) -> None:
        self.names = list(facts["labels"])

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        part = self.spec.data.columns
        classes = {name: number for number, name in enumerate(self.names)}
        labels = [self._class(row, classes) for row in rows]
        texts = [row.text(part.text) for row in rows]
        pairs = [row.text(part.text_pair) for row in rows] if part.text_pair else None
        encoded = self.tokenizer(
            texts,
            pairs,
            truncation=True,
            max_length=min(self.spec.data.max_length, self.tokenizer.model_max_length),
            return_token_type_ids=self._has_types,
        )
        for index, label in enumerate(labels):
            example = {"input_ids": np.asarray(encoded["input_ids"][index]), "label": label}
            if self._has_types:
                example["token_type_ids"] = np.asarray(encoded["token_type_ids"][index])
            yield example

    def _class(self, row: Row, classes: dict[str, int]) -> Array:
        column = self.spec.data.columns.label
        name = row.label(column)
        if name not in classes:
            raise row.error(
                f"column {column!r}: label {name!r} is not among those of the training split: "
                + ", ".join(self.names[:20])
            )
        return np.asarray(classes[name])

    @override
    def examples(self, store: Store) -> LabelledTexts:
        return LabelledTexts(store, pad_id=self.tokenizer.pad_token_id or 0)

    @override
    def model_settings(self) -> dict[str, Any]:
        numbered = dict(enumerate(self.names))
        return {
            "num_labels": len(self.names),
            "id2label": numbered,
            "label2id": {name: number for number, name in numbered.items()},
            "problem_type": "single_label_classification",
        }

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits: torch.Tensor = model(**batch.inputs).logits.float()
        loss = cross_entropy(logits, batch.labels, reduction="sum")
        return loss, no_predictions(batch) if model.training else logits.argmax(-1)

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        report = self.report(measured, examples)
        return {
            "loss": measured.loss,
            "accuracy": report.accuracy,
            "f1": report.macro.f1,
            "precision": report.macro.precision,
            "recall": report.macro.recall,
            "f1_weighted": report.weighted.f1,
        }

    @override
    def report(self, measured: Measured, examples: Examples) -> ClassificationReport:
        assert isinstance(examples, LabelledTexts)
        return classification_report(examples.labels, measured.predictions, self.names)


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers by value, before everything else by its letters."""
    return (0, int(name), name) if name.lstrip("-").isdigit() else (1, 0, name)
