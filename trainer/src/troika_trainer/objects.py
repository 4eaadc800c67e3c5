"""The objects column of a row: boxes and categories, as the datasets library writes them."""

import math
from typing import Any

from .classnames import Names
from .rows import Row

Box = list[float]


def objects_of(row: Row, column: str, told: Names | None = None) -> list[tuple[str, Box]]:
    """Category and box (x, y, width, height in pixels) of every object in the row's image.

    Args:
        row: Where they stand.
        column: In which column.
        told: Names of all categories; their numbers may stand there, too.

    Raises:
        DataError: the column is not {bbox: [[x, y, width, height], ...], category: [...]}.
    """
    value = row.value(column)
    if not isinstance(value, dict):
        raise _error(row, column, f"got {type(value).__name__}")
    boxes, categories = value.get("bbox"), value.get("category", value.get("categories"))
    if not isinstance(boxes, list) or not isinstance(categories, list):
        raise _error(row, column, f"got the keys {', '.join(value) or 'none'}")
    if len(boxes) != len(categories):
        raise _error(row, column, f"got {len(boxes)} boxes and {len(categories)} categories")
    return [
        (row.class_of(category, column, told), _box(row, column, box))
        for category, box in zip(categories, boxes, strict=True)
    ]


def _box(row: Row, column: str, box: Any) -> Box:
    numbers = isinstance(box, list) and all(isinstance(side, int | float) for side in box)
    if not numbers or len(box) != 4 or not all(math.isfinite(side) for side in box):
        raise _error(row, column, f"got the box {box}")
    if box[2] <= 0 or box[3] <= 0:
        raise _error(row, column, f"the box {box} has no area")
    return [float(side) for side in box]


def _error(row: Row, column: str, got: str) -> Exception:
    return row.error(
        f"column {column!r}: expected {{bbox: [[x, y, width, height], ...], category: [...]}} "
        f"with a category for each box, in pixels; {got}"
    )
