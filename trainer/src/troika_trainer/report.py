"""The classification report: pure functions from labels and predictions to numbers and text."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from troika_api.contract import Score

Integers = npt.NDArray[np.integer]

WORST_SHOWN = 20
MOST_LISTED = 50
"""Classes that the text has a line for; it is also part of the model's card."""
MOST_CROSSED = 20
"""Classes up to which the text has a confusion matrix: its size is the square of their number."""
MOST_COUNTED = 1000
"""Classes up to which there is a confusion matrix at all: that of 10,000 takes gigabytes."""
LONGEST_SHOWN = 600
"""Characters of a text in a report."""


class Report(Protocol):
    """What a task has to say beside its scores."""

    @property
    def classes(self) -> list[Score]:
        """A line for each class; none where there are no classes."""

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""

    def as_text(self) -> str:
        """For people."""


@dataclass(frozen=True)
class Mistake:
    """An example that the model got wrong."""

    row: int
    """Its number in the split, from 1."""
    text: str
    """What the model was given; empty where that is no text."""
    expected: str
    predicted: str | None
    """None where the measure compares nothing with what was expected."""
    measure: str
    """What `value` is, such as loss."""
    value: float
    picture: str = ""
    """What the model was given, as a data URI, where that is an image."""

    def as_dict(self) -> dict[str, Any]:
        """For report.json, which has no pictures."""
        return {name: value for name, value in asdict(self).items() if name != "picture"}


def worst(
    badness: npt.NDArray[Any], show: Callable[[int], Mistake], *, above: float = 0.0
) -> list[Mistake]:
    """The worst examples, worst first.

    Args:
        badness: Of each example, shape [samples]; the higher the worse.
        show: Makes one presentable.
        above: What is no mistake yet.
    """
    order = np.argsort(-badness, kind="stable")[:WORST_SHOWN]
    return [show(int(index)) for index in order if badness[index] > above]


def shortened(text: str) -> str:
    """A text that has room in a report."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


@dataclass(frozen=True)
class ClassificationReport:
    """How well the classes were told apart."""

    accuracy: float
    classes: list[Score]
    micro: Score
    """Over all decisions, each the same weight."""
    macro: Score
    """Mean over the classes that occur among labels or predictions, each the same weight."""
    weighted: Score
    """Mean over the classes, weighted by how many samples they have."""
    confusion: list[list[int]] | None = None
    """Samples by true class (rows) and predicted class (columns), where each has just one; None
    where there are more than `MOST_COUNTED` classes."""

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "accuracy": self.accuracy,
            "classes": [score.model_dump() for score in self.classes],
            "micro": self.micro.model_dump(),
            "macro": self.macro.model_dump(),
            "weighted": self.weighted.model_dump(),
            "confusionMatrix": self.confusion,
        }

    def as_text(self) -> str:
        """For people, in the shape that scikit-learn made familiar; of many classes the largest."""
        shown = _largest(self.classes)
        width = max(12, *(len(score.name) for score in shown))
        lines = [f"{'':>{width}}  precision  recall      f1  support", ""]
        lines += [_line(score, width) for score in shown]
        total = self.weighted.support
        lines += ["", f"{'accuracy':>{width}}  {'':9}  {'':6}  {self.accuracy:6.3f}  {total:7}"]
        if self.confusion is None:  # else micro averages are the accuracy
            lines.append(_line(self.micro, width))
        lines += [_line(self.macro, width), _line(self.weighted, width)]
        if len(shown) < len(self.classes):
            of_all = f"the {len(shown)} of {len(self.classes)} classes with the most rows"
            lines += ["", f"{of_all}; report.json has all"]
        if self.confusion is not None and len(self.classes) <= MOST_CROSSED:
            lines += ["", "confusion matrix", *self._confusion_lines(self.confusion, width)]
        elif self.confusion is not None:
            lines += ["", "which classes are taken for which: report.html, report.json"]
        return "\n".join(lines) + "\n"

    def _confusion_lines(self, confusion: list[list[int]], width: int) -> Iterator[str]:
        names = [score.name for score in self.classes]
        cell = max(7, *(len(name) for name in names))
        yield " " * width + "".join(f"  {name:>{cell}}" for name in names)
        for name, counts in zip(names, confusion, strict=True):
            yield f"{name:>{width}}" + "".join(f"  {count:{cell}}" for count in counts)


def _largest(classes: list[Score]) -> list[Score]:
    """Those with the most rows, as many as are listed, in the order they have."""
    by_size = sorted(range(len(classes)), key=lambda number: -classes[number].support)
    return [classes[number] for number in sorted(by_size[:MOST_LISTED])]


def _line(score: Score, width: int) -> str:
    numbers = f"{score.precision:9.3f}  {score.recall:6.3f}  {score.f1:6.3f}  {score.support:7}"
    return f"{score.name:>{width}}  {numbers}"


def confusion_matrix(truth: Integers, predicted: Integers, num_classes: int) -> Integers:
    """Count samples by true and predicted class. Shape [classes, classes], rows are the truth."""
    flat = np.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


def classification_report(
    truth: Integers, predicted: Integers, names: list[str]
) -> ClassificationReport:
    """Precision, recall, f1 and support of every class; a ratio over nothing is 0.

    Args:
        truth: Class of each sample, shape [samples].
        predicted: Predicted class of each sample, shape [samples].
        names: Name of each class.
    """
    kinds = len(names)
    counts = Counts(
        hits=np.bincount(truth[truth == predicted], minlength=kinds),
        predicted=np.bincount(predicted, minlength=kinds),
        support=np.bincount(truth, minlength=kinds),
    )
    accuracy = float(counts.hits.sum() / max(len(truth), 1))
    crossed = kinds <= MOST_COUNTED
    confusion = confusion_matrix(truth, predicted, kinds).tolist() if crossed else None
    return report_of(counts, names, accuracy=accuracy, confusion=confusion)


@dataclass(frozen=True)
class Counts:
    """What precision and recall are made from, for each class. Shape [classes] each."""

    hits: Integers
    """Found, and rightly so."""
    predicted: Integers
    """Found."""
    support: Integers
    """There to be found."""


def report_of(
    counts: Counts,
    names: list[str],
    *,
    accuracy: float,
    confusion: list[list[int]] | None = None,
) -> ClassificationReport:
    """Precision, recall and f1 of every class and over all; a ratio over nothing is 0.

    A class that a split does not have and that nobody found in it says nothing of the model: the
    macro average leaves it out, as scikit-learn's does.
    """
    table = _scores(counts.hits, counts.predicted, counts.support)
    total = int(counts.support.sum())
    occurs = (counts.support > 0) | (counts.predicted > 0)
    macro = table[:, occurs].mean(axis=1) if occurs.any() else np.zeros(3)
    overall = _scores(
        *(part.sum(keepdims=True) for part in (counts.hits, counts.predicted, counts.support))
    )
    return ClassificationReport(
        accuracy=accuracy,
        classes=[
            _score(name, table[:, index], int(counts.support[index]))
            for index, name in enumerate(names)
        ],
        micro=_score("micro avg", overall[:, 0], total),
        macro=_score("macro avg", macro, total),
        weighted=_score("weighted avg", table @ counts.support / max(total, 1), total),
        confusion=confusion,
    )


def _scores(hits: Integers, predicted: Integers, support: Integers) -> npt.NDArray[np.float64]:
    """Precision, recall and f1 of each class. Shape [3, classes]."""
    precision, recall = _ratio(hits, predicted), _ratio(hits, support)
    return np.stack([precision, recall, _ratio(2 * precision * recall, precision + recall)])


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    ratio: npt.NDArray[np.float64] = np.divide(
        part, whole, out=np.zeros(len(part)), where=whole > 0
    )
    return ratio


def _score(name: str, numbers: npt.NDArray[np.float64], support: int) -> Score:
    precision, recall, f1 = (float(number) for number in numbers)
    return Score(name=name, precision=precision, recall=recall, f1=f1, support=support)
