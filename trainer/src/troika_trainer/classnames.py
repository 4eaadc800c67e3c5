"""What the numbers of classes are called: as the run says, or as the file itself does."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

Names = Sequence[str]
"""The name of each class, in the order of their numbers; empty where numbers have no names."""

_WHOLE = re.compile(r"-?[0-9]{1,4000}")
"""What Python reads as a whole number: no longer one, and no other digits such as a raised 2."""


def names_in(schema: pa.Schema) -> dict[str, Names]:
    """Names of classes by column, as the datasets library writes them into a Parquet file."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        found = {column: _names(feature) for column, feature in features.items()}
    except (TypeError, KeyError, ValueError, AttributeError):
        return {}  # written by something else, which says nothing of names
    return {column: names for column, names in found.items() if names}


def _names(feature: Any) -> Names:
    """Those of a class, wherever in the feature it is: in a list, or among the parts of objects."""
    if isinstance(feature, list):
        feature = dict(enumerate(feature))
    if not isinstance(feature, dict):
        return ()
    if feature.get("_type") == "ClassLabel":
        return tuple(map(str, feature.get("names") or ()))
    return next(filter(None, map(_names, feature.values())), ())


def number_in(value: object) -> int | None:
    """A whole number, also one written as text; None for everything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    return None


def named(value: object, names: Names) -> str | None:
    """What a class is called that stands in the data by its number or by its name.

    Args:
        value: What stands there.
        names: Where there are none, whole numbers are names themselves.

    Returns:
        None where it is no class, or none of those that have names.
    """
    if not names:
        known = isinstance(value, str) and value.strip()
        return str(value) if known or isinstance(value, int) else None
    if isinstance(value, str) and value in names:
        return value
    number = number_in(value)
    return names[number] if number is not None and 0 <= number < len(names) else None
