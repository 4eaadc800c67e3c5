"""TextClassification: one class for a text or a pair of texts, or any number of them."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import Batch, Examples, Integers
from troika_trainer.classnames import Names
from troika_trainer.report import (
    ClassificationReport,
    Counts,
    Mistake,
    classification_report,
    report_of,
    shortened,
    worst,
)
from troika_trainer.rows import Row
from troika_trainer.shards import Array, ColumnType, Example, Store

from .base import Measured, while_measuring
from .classes import (
    class_counts,
    class_facts,
    class_predictions,
    class_scores,
    classes_of,
    numbered_labels,
    with_more_classes,
    worst_classes,
)
from .texts import Texts, TextTask, ValuedTexts
from .weighing import DecisionWeighing, Weighing


class ManyLabelled(Texts):
    """Texts that each have any number of classes."""

    def __init__(self, store: Store, *, pad_id: int, num_classes: int) -> None:
        super().__init__(store, pad_id=pad_id)
        self._labels = store["label"]
        self._num_classes = num_classes

    def matrix(self, indices: Integers) -> Array:
        """1 where a text has a class. Shape [samples, classes]."""
        has = np.zeros((len(indices), self._num_classes), dtype=np.int64)
        for row, index in enumerate(indices):
            has[row, self._labels[int(index)]] = 1
        return has

    @override
    def targets(self, indices: Integers, real: Any) -> tuple[torch.Tensor, int]:
        """Shape [samples, classes]. A text is one prediction: the classes are averaged."""
        return torch.from_numpy(self.matrix(indices)), len(indices)


class TextClassification(TextTask):
    """Fine-tunes a model with a classification head."""

    auto_model = AutoModelForSequenceClassification
    pipeline_tag = "text-classification"
    one_prediction_each = True
    names: list[str]
    """Classes; their order is their number."""
    many: bool
    """Whether a text has any number of classes: the first row of training says so."""

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        return {**self.token_columns, "label": ColumnType("int32", ragged=self.many)}

    @override
    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:
        many = self.spec.data.label_separator is not None
        found: Counter[str] = Counter()
        names: Names = ()
        number = 0
        for number, row in enumerate(rows, 1):
            if number == 1:
                many = many or isinstance(row.value(self._column), list)
            names = names or row.names(self._column, self.spec.data.labels)
            found.update(set(self._labels(row, many=many)))
        return {**class_facts(found, self._column, names), "many": many, "rows": number}

    @override
    def widen(self, facts: dict[str, Any], held_out: Iterator[Row]) -> dict[str, Any]:
        rows = (self._labels(row, many=facts["many"]) for row in held_out)
        return with_more_classes(facts, itertools.chain.from_iterable(rows))

    @override
    def adopt(self, facts: dict[str, Any]) -> None:
        self.names, self.many = list(facts["labels"]), bool(facts["many"])
        counts = class_counts(facts)
        self._weighing: Weighing | DecisionWeighing = (
            DecisionWeighing(self.spec.loss, counts, facts["rows"])
            if self.many
            else Weighing(self.spec.loss, counts)
        )

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        part = self.spec.data.columns
        classes = {name: number for number, name in enumerate(self.names)}
        labels = [self._classes(row, classes) for row in rows]
        texts = [row.text(part.text) for row in rows]
        pairs = [row.text(part.text_pair) for row in rows] if part.text_pair else None
        encoded = self.tokenize(texts, pairs)
        for index, label in enumerate(labels):
            yield {**self.tokens_of(encoded, index), "label": label}

    @property
    def _column(self) -> str:
        return self.spec.data.columns.label

    def _labels(self, row: Row, *, many: bool) -> list[str]:
        data = self.spec.data
        if many:
            return row.labels(self._column, data.label_separator, data.labels)
        return [row.label(self._column, data.labels)]

    def _classes(self, row: Row, classes: dict[str, int]) -> Array:
        names = self._labels(row, many=self.many)
        for name in names:
            if name not in classes:
                raise row.error(
                    f"column {self._column!r}: label {name!r} is not among those of the training "
                    "split: " + ", ".join(self.names[:20])
                )
        numbers = [classes[name] for name in names]
        return np.array(numbers if self.many else numbers[0], dtype=np.int64)

    @override
    def examples(self, store: Store) -> Texts:
        if self.many:
            return ManyLabelled(store, pad_id=self.pad_id, num_classes=len(self.names))
        return ValuedTexts(store, pad_id=self.pad_id)

    @override
    def model_settings(self) -> dict[str, Any]:
        kind = "multi" if self.many else "single"
        return {**numbered_labels(self.names), "problem_type": f"{kind}_label_classification"}

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits: torch.Tensor = model(**batch.inputs).logits.float()
        labels = batch.labels.long()
        loss = self._weighing.loss(logits, labels, training=model.training)
        found = (logits > 0).long() if self.many else class_predictions(logits, labels)
        return loss, while_measuring(model, batch, found)

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        return class_scores(measured.loss, self.report(measured, examples))

    @override
    def report(self, measured: Measured, examples: Examples) -> ClassificationReport:
        if isinstance(examples, ManyLabelled):
            truth = examples.matrix(np.arange(len(measured.predictions)))
            return many_label_report(truth, measured.predictions, self.names)
        assert isinstance(examples, ValuedTexts)
        return classification_report(examples.labels, classes_of(measured), self.names)

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        if isinstance(examples, ManyLabelled):
            truth = examples.matrix(np.arange(len(measured.predictions)))
            return worst_many(
                truth, measured.predictions, self.names, lambda index: self.shown(examples, index)
            )
        assert isinstance(examples, ValuedTexts)
        return worst_classes(
            measured, examples.labels, self.names, lambda index: self.shown(examples, index)
        )


def many_label_report(truth: Array, predicted: Array, names: list[str]) -> ClassificationReport:
    """Each class is a decision of its own; accuracy counts the texts with every class right.

    Args:
        truth: 1 where a text has a class, shape [samples, classes].
        predicted: 1 where it is said to have it, shape [samples, classes].
        names: Name of each class.
    """
    counts = Counts(
        hits=(truth * predicted).sum(axis=0),
        predicted=predicted.sum(axis=0),
        support=truth.sum(axis=0),
    )
    exact = (truth == predicted).all(axis=1)
    return report_of(counts, names, accuracy=float(exact.mean()) if len(exact) else 0.0)


def worst_many(
    truth: Array, predicted: Array, names: list[str], text: Callable[[int], str]
) -> list[Mistake]:
    """The texts with most classes wrong. Shapes as in `many_label_report`."""
    wrong = (truth != predicted).sum(axis=1)

    def listed(row: Array) -> str:
        return ", ".join(names[number] for number in np.flatnonzero(row)) or "(none)"

    return worst(
        wrong,
        lambda index: Mistake(
            row=index + 1,
            text=shortened(text(index)),
            expected=listed(truth[index]),
            predicted=listed(predicted[index]),
            measure="classes wrong",
            value=float(wrong[index]),
        ),
    )
