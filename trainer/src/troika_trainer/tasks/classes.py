"""What the tasks that find one class share, whatever the input: labels, head, scores, report."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import Batch, Examples, Integers
from troika_trainer.classnames import Names, number_in
from troika_trainer.errors import DataError
from troika_trainer.report import (
    ClassificationReport,
    Mistake,
    classification_report,
    shortened,
    worst,
)
from troika_trainer.rows import Row
from troika_trainer.shards import Array, ColumnType, Store

from .base import FinetuneTask, Measured, while_measuring
from .weighing import Weighing

LABEL_COLUMN = {"label": ColumnType("int32", ragged=False)}


def labels_of(store: Store) -> Integers:
    """Class of every example. Shape [examples]."""
    column = store["label"]
    return np.array(column.slice(0, len(column)), dtype=np.int64)


class ClassTask(FinetuneTask):
    """Fine-tunes a model with a classification head: one class for each example."""

    names: list[str]
    """Classes; their order is their number."""

    @override
    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:
        column, told = self.spec.data.columns.label, self.spec.data.labels
        found: Counter[str] = Counter()
        names: Names = ()
        for row in rows:
            names = names or row.names(column, told)
            found[row.label(column, told)] += 1
        return class_facts(found, column, names)

    @override
    def widen(self, facts: dict[str, Any], held_out: Iterator[Row]) -> dict[str, Any]:
        column, told = self.spec.data.columns.label, self.spec.data.labels
        return with_more_classes(facts, (row.label(column, told) for row in held_out))

    @override
    def adopt(self, facts: dict[str, Any]) -> None:
        self.names = list(facts["labels"])
        self._numbers = {name: number for number, name in enumerate(self.names)}
        self._weighing = Weighing(self.spec.loss, class_counts(facts))

    def class_of(self, row: Row) -> Array:
        """The number of a row's class.

        Raises:
            DataError: the training split does not have it.
        """
        column = self.spec.data.columns.label
        name = row.label(column, self.spec.data.labels)
        if name not in self._numbers:
            raise row.error(
                f"column {column!r}: label {name!r} is not among those of the training split: "
                + ", ".join(self.names[:20])
            )
        return np.asarray(self._numbers[name])

    @override
    def model_settings(self) -> dict[str, Any]:
        return {**numbered_labels(self.names), "problem_type": "single_label_classification"}

    @abstractmethod
    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        """What the model is called with."""

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits: torch.Tensor = model(**self.inputs(batch)).logits.float()
        loss = self._weighing.loss(logits, batch.labels, training=model.training)
        return loss, while_measuring(model, batch, class_predictions(logits, batch.labels))

    @abstractmethod
    def truth(self, examples: Examples) -> Integers:
        """Class of every example. Shape [examples]."""

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        return class_scores(measured.loss, self.report(measured, examples))

    @override
    def report(self, measured: Measured, examples: Examples) -> ClassificationReport:
        return classification_report(self.truth(examples), classes_of(measured), self.names)

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        return worst_classes(measured, self.truth(examples), self.names)


def class_predictions(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The likeliest class, and the loss of the right one in nats. Shape [samples, 2]."""
    return torch.stack(
        [logits.argmax(-1).float(), cross_entropy(logits, labels, reduction="none")], dim=-1
    )


def classes_of(measured: Measured) -> Integers:
    """The classes among `class_predictions`. Shape [samples]."""
    return measured.predictions[:, 0].astype(np.int64)


def worst_classes(
    measured: Measured,
    truth: Integers,
    names: Sequence[str],
    text: Callable[[int], str] = lambda _index: "",
    picture: Callable[[int], str] = lambda _index: "",
) -> list[Mistake]:
    """The examples of which the model was most sure that they are of another class."""
    predicted = classes_of(measured)
    losses = np.where(predicted == truth, 0.0, measured.predictions[:, 1])
    return worst(
        losses,
        lambda index: Mistake(
            row=index + 1,
            text=shortened(text(index)),
            expected=names[truth[index]],
            predicted=names[predicted[index]],
            measure="loss",
            value=float(losses[index]),
            picture=picture(index),
        ),
    )


def numbered_labels(names: Sequence[str]) -> dict[str, Any]:
    """The classes of a head, for the model's configuration."""
    numbered = dict(enumerate(names))
    return {
        "num_labels": len(names),
        "id2label": numbered,
        "label2id": {name: number for number, name in numbered.items()},
    }


def class_facts(counts: Mapping[str, int], column: str, names: Names = ()) -> dict[str, Any]:
    """The classes of the training rows in their order, and how many rows each has.

    Args:
        counts: Training rows by class.
        column: Where the classes stand.
        names: Those that have numbers in the data; here they have the same, rows or not.

    Raises:
        DataError: there is nothing to tell apart.
    """
    if len(counts) < 2:
        raise DataError(
            f"the training split has {len(counts)} class(es) in column {column!r}: "
            f"{', '.join(sorted(counts)) or 'none'}",
            "a classifier needs at least two; check data.columns.label",
        )
    labels = ordered(counts, names)
    facts = {"labels": labels, "counts": [counts.get(name, 0) for name in labels]}
    return {**facts, "names": list(names)}


def with_more_classes(facts: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """`class_facts` with these classes too, which no training row is of where they are new."""
    counts = class_counts(facts)
    labels = ordered({*counts, *names}, facts["names"])
    return {**facts, "labels": labels, "counts": [counts.get(name, 0) for name in labels]}


def ordered(classes: Iterable[str], names: Names) -> list[str]:
    """All classes: those with a number in the data by that, all others after them."""
    return [*names, *sorted({*classes} - {*names}, key=natural)]


def class_counts(facts: dict[str, Any]) -> dict[str, int]:
    """Training rows of each class, out of `class_facts`."""
    return dict(zip(facts["labels"], facts["counts"], strict=True))


def class_scores(loss: float, report: ClassificationReport) -> dict[str, float]:
    """The scores of a classifier by name."""
    return {
        "loss": loss,
        "accuracy": report.accuracy,
        "f1": report.macro.f1,
        "f1Micro": report.micro.f1,
        "f1Weighted": report.weighted.f1,
        "precision": report.macro.precision,
        "recall": report.macro.recall,
    }


def natural(name: str) -> tuple[int, int, str]:
    """Numbers by value, before everything else by its letters."""
    number = number_in(name)
    return (1, 0, name) if number is None else (0, number, name)
