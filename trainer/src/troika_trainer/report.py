"""The classification report: pure functions from labels and predictions to numbers and text."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from troika_api.contract import Score

Integers = npt.NDArray[np.integer]


@dataclass(frozen=True)
class ClassificationReport:
    """How well the classes were told apart."""

    accuracy: float
    classes: list[Score]
    macro: Score
    """Mean over the classes, each the same weight."""
    weighted: Score
    """Mean over the classes, weighted by how many samples they have."""
    confusion: list[list[int]]
    """Samples by true class (rows) and predicted class (columns)."""

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "accuracy": self.accuracy,
            "classes": [score.model_dump() for score in self.classes],
            "macro": self.macro.model_dump(),
            "weighted": self.weighted.model_dump(),
            "confusionMatrix": self.confusion,
        }

    def as_text(self) -> str:
        """For people, in the shape that scikit-learn made familiar."""
        width = max(12, *(len(score.name) for score in self.classes))
        lines = [f"{'':>{width}}  precision  recall      f1  support", ""]
        lines += [_line(score, width) for score in self.classes]
        total = self.weighted.support
        lines += ["", f"{'accuracy':>{width}}  {'':9}  {'':6}  {self.accuracy:6.3f}  {total:7}"]
        lines += [_line(self.macro, width), _line(self.weighted, width), "", "confusion matrix"]
        names = [score.name for score in self.classes]
        cell = max(7, *(len(name) for name in names))
        lines.append(" " * width + "".join(f"  {name:>{cell}}" for name in names))
        for name, counts in zip(names, self.confusion, strict=True):
            lines.append(f"{name:>{width}}" + "".join(f"  {count:{cell}}" for count in counts))
        return "\n".join(lines) + "\n"


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
    matrix = confusion_matrix(truth, predicted, len(names))
    hits = np.diag(matrix).astype(float)
    support = matrix.sum(axis=1)
    precision = _ratio(hits, matrix.sum(axis=0))
    recall = _ratio(hits, support)
    f1 = _ratio(2 * precision * recall, precision + recall)
    table = np.stack([precision, recall, f1])
    total = int(support.sum())
    return ClassificationReport(
        accuracy=float(hits.sum() / max(total, 1)),
        classes=[
            _score(name, table[:, index], int(support[index])) for index, name in enumerate(names)
        ],
        macro=_score("macro avg", table.mean(axis=1), total),
        weighted=_score("weighted avg", table @ support / max(total, 1), total),
        confusion=matrix.tolist(),
    )


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    ratio: npt.NDArray[np.float64] = np.divide(
        part, whole, out=np.zeros(len(part)), where=whole > 0
    )
    return ratio


def _score(name: str, numbers: npt.NDArray[np.float64], support: int) -> Score:
    precision, recall, f1 = (float(number) for number in numbers)
    return Score(name=name, precision=precision, recall=recall, f1=f1, support=support)
