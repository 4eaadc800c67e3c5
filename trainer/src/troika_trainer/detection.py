"""Scores of detected objects, by COCO's definition: pycocotools does the counting."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from troika_api.contract import Score

from .report import Mistake, worst

Numbers = npt.NDArray[Any]

MIN_IOU, MIN_SCORE = 0.5, 0.5
"""What counts as found in precision and recall: such an overlap, and such a score."""

_SCORE, _CLASS, _BOX = 0, 1, slice(2, 6)


@dataclass(frozen=True)
class DetectionReport:
    """How well objects were found."""

    mean: float
    """AP averaged over IoU 0.50, 0.55, ..., 0.95 and the classes."""
    mean50: float
    """AP at IoU 0.50, averaged over the classes."""
    classes: list[Score]
    """Precision, recall and f1 at IoU 0.5 and score 0.5."""
    precision: dict[str, float]
    """AP of each class over all IoU."""

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "mAP": self.mean,
            "mAP50": self.mean50,
            "averagePrecision": self.precision,
            "classes": [score.model_dump() for score in self.classes],
        }

    def as_text(self) -> str:
        """For people."""
        width = max(10, *(len(score.name) for score in self.classes))
        lines = [f"{'':>{width}}      AP  precision  recall      f1  support", ""]
        lines += [
            f"{score.name:>{width}}  {self.precision[score.name]:6.3f}  {score.precision:9.3f}  "
            f"{score.recall:6.3f}  {score.f1:6.3f}  {score.support:7}"
            for score in self.classes
        ]
        lines += [
            "",
            f"{'mAP':>{width}}  {self.mean:6.3f}",
            f"{'mAP50':>{width}}  {self.mean50:6.3f}",
        ]
        lines += ["", f"precision, recall and f1: IoU >= {MIN_IOU}, score >= {MIN_SCORE}"]
        return "\n".join(lines) + "\n"


def detection_report(
    truth: list[Numbers], found: list[Numbers], names: list[str]
) -> DetectionReport:
    """Compare the objects found in each image with those that are there.

    Args:
        truth: For each image [objects, 5]: class, x, y, width, height, in pixels.
        found: For each image [objects, 6]: score, class, x, y, width, height.
        names: Name of each class.
    """
    evaluated = _evaluate(truth, found, names)
    # [IoU, recall, class, area, detections]: all areas, at most 100 detections an image.
    table = evaluated.eval["precision"][:, :, :, 0, 2]
    per_class = [_mean(table[:, :, index]) for index in range(len(names))]
    return DetectionReport(
        mean=_mean(table),
        mean50=_mean(table[0]),
        classes=_scores(truth, found, names),
        precision=dict(zip(names, per_class, strict=True)),
    )


def _mean(values: Numbers) -> float:
    """Over the classes that occur: the others are -1."""
    there = values[values > -1]
    return float(there.mean()) if there.size else 0.0


def _evaluate(truth: list[Numbers], found: list[Numbers], names: list[str]) -> Any:
    objects = [
        {
            "image_id": image,
            "category_id": int(row[0]),
            "bbox": [float(value) for value in row[1:]],
            "area": float(row[3] * row[4]),
            "iscrowd": 0,
        }
        for image, rows in enumerate(truth)
        for row in rows
    ]
    detected = [
        [image, *row[_BOX], row[_SCORE], row[_CLASS]]
        for image, rows in enumerate(found)
        for row in rows
    ]
    # Without a single detection loadRes would refuse; one of score 0 over nothing changes nothing.
    table = np.array(detected or [[0, 0, 0, 0, 0, 0, 0]], dtype=np.float64)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(truth))],
            "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
            # Number 0 would mean "matched nothing" in its tables.
            "annotations": [{"id": number, **row} for number, row in enumerate(objects, start=1)],
        }
        reference.createIndex()
        evaluated = COCOeval(reference, reference.loadRes(table), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
    return evaluated


def _scores(truth: list[Numbers], found: list[Numbers], names: list[str]) -> list[Score]:
    hits, claimed, support = (np.zeros(len(names), dtype=int) for _ in range(3))
    for there, rows in zip(truth, found, strict=True):
        sure, right = matched(there, rows)
        support += _counts(there[:, 0], names)
        claimed += _counts(sure[:, _CLASS], names)
        hits += _counts(sure[right, _CLASS], names)
    return [
        _score(name, int(hits[index]), int(claimed[index]), int(support[index]))
        for index, name in enumerate(names)
    ]


def _score(name: str, hits: int, claimed: int, support: int) -> Score:
    f1 = 2 * hits / (claimed + support) if claimed + support else 0.0
    return Score(
        name=name,
        precision=hits / claimed if claimed else 0.0,
        recall=hits / support if support else 0.0,
        f1=f1,
        support=support,
    )


def _counts(kinds: Numbers, names: list[str]) -> Numbers:
    return np.bincount(kinds.astype(int), minlength=len(names))


def matched(there: Numbers, rows: Numbers) -> tuple[Numbers, Numbers]:
    """The sure detections of an image, the surest first, and which of them found an object.

    Each takes the best free object of its class.

    Args:
        there: The objects of the image, as in `detection_report`.
        rows: What was found in it.

    Returns:
        Shapes [sure detections, 6] and [sure detections].
    """
    sure = rows[rows[:, _SCORE] >= MIN_SCORE]
    sure = sure[np.argsort(-sure[:, _SCORE], kind="stable")]
    right = np.zeros(len(sure), dtype=bool)
    free = list(range(len(there)))
    for place, row in enumerate(sure):
        rivals = [(iou(row[_BOX], there[at][1:]), at) for at in free if there[at][0] == row[_CLASS]]
        if rivals and max(rivals)[0] >= MIN_IOU:
            right[place] = True
            free.remove(max(rivals)[1])
    return sure, right


def worst_scenes(
    truth: list[Numbers], found: list[Numbers], names: list[str], picture: Callable[[int], str]
) -> list[Mistake]:
    """The images with most objects that were missed or are not there, surely found ones only.

    Args:
        truth: As in `detection_report`.
        found: The same.
        names: Name of each class.
        picture: Makes a data URI of an image, by its number.
    """
    pairs = [matched(there, rows) for there, rows in zip(truth, found, strict=True)]
    # A detection of nothing is one error, an object that no detection took another.
    wrong = np.array(
        [
            len(there) + len(sure) - 2 * int(right.sum())
            for there, (sure, right) in zip(truth, pairs, strict=True)
        ]
    )
    return worst(
        wrong,
        lambda index: Mistake(
            row=index + 1,
            text="",
            expected=_listed(truth[index][:, 0], names),
            predicted=_listed(pairs[index][0][:, _CLASS], names),
            measure="objects missed or invented",
            value=float(wrong[index]),
            picture=picture(index),
        ),
    )


def _listed(kinds: Numbers, names: list[str]) -> str:
    """How many of each class, such as `cat (2), dog (1)`."""
    counts = _counts(kinds, names)
    return ", ".join(f"{names[at]} ({counts[at]})" for at in np.flatnonzero(counts)) or "(none)"


def iou(one: Numbers, other: Numbers) -> float:
    """Shared area over joint area of two boxes: x, y, width, height."""
    left, top = np.maximum(one[:2], other[:2])
    right, bottom = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    shared = max(0.0, float(right - left)) * max(0.0, float(bottom - top))
    joint = float(one[2] * one[3] + other[2] * other[3]) - shared
    return shared / joint if joint > 0 else 0.0
