"""The sets by name. Each builder writes into the folder it is given, and returns its sources."""

from collections.abc import Callable
from pathlib import Path

from . import labelled, text

SETS: dict[str, Callable[[Path], list[str]]] = {
    "prose": text.prose,
    "reviews": labelled.reviews,
}
