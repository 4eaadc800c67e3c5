"""Measures of numbers and of orders: pure functions, the same as scipy's and scikit-learn's."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Array = npt.NDArray[np.number]

HIGHEST_GRADE = 30.0
"""Relevance up to which it is taken for a grade."""


def mean_squared_error(truth: Array, predicted: Array) -> float:
    """In the square of the label's unit. Shapes [samples]."""
    return float(((truth - predicted) ** 2).mean())


def mean_absolute_error(truth: Array, predicted: Array) -> float:
    """In the label's unit. Shapes [samples]."""
    return float(np.abs(truth - predicted).mean())


def pearson(truth: Array, predicted: Array) -> float:
    """Linear correlation, -1 to 1; 0 where one side is constant, when there is none."""
    x = (truth - truth.mean()).astype(np.float64)
    y = (predicted - predicted.mean()).astype(np.float64)
    norm = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / norm if norm > 0.0 else 0.0


def spearman(truth: Array, predicted: Array) -> float:
    """Correlation of the ranks, ties sharing their mean rank."""
    return pearson(ranks(truth), ranks(predicted))


def ranks(values: Array) -> Floats:
    """Rank of each value from 1 up; equal values share the mean of theirs. Shape [samples]."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: Floats = (last - (counts - 1) / 2.0)[inverse]
    return mean


def roc_auc(relevant: npt.NDArray[np.bool_], scores: Array) -> float | None:
    """Chance that a relevant sample scores higher than another; None where one kind is missing."""
    positives = int(relevant.sum())
    negatives = len(relevant) - positives
    if not positives or not negatives:
        return None
    total = float(ranks(scores)[relevant].sum())
    return (total - positives * (positives + 1) / 2.0) / (positives * negatives)


def gains(relevance: Array) -> Floats:
    """What it is worth to find each candidate: 2^relevance - 1, as is usual for grades.

    Where any is above `HIGHEST_GRADE` they are no grades but amounts, such as clicks: then the
    gain is the relevance itself, as 2^2000 is no number. Shape [candidates].
    """
    given = relevance.astype(np.float64)
    return given if (given > HIGHEST_GRADE).any() else np.exp2(given) - 1.0


def ndcg(gains: Floats, scores: Array, *, k: int) -> float | None:
    """Normalised discounted cumulative gain of one query's first k; `gains` are made by that.

    Candidates with equal scores share the mean of their gains: a constant score earns what a
    random order earns. None where nothing is relevant.
    """
    discounts = 1.0 / np.log2(np.arange(2, len(gains) + 2))
    discounts[k:] = 0.0
    best = float((np.sort(gains)[::-1] * discounts).sum())
    if best == 0.0:
        return None
    _, inverse, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    shared = np.bincount(inverse, weights=gains) / counts
    return float((shared[np.sort(inverse)] * discounts).sum()) / best


def reciprocal_rank(relevance: Array, scores: Array) -> float | None:
    """1 over the rank of the first relevant candidate; equal scores count against it."""
    if not (relevance > 0).any():
        return None
    best = scores[relevance > 0].max()
    others = int(((scores >= best) & (relevance <= 0)).sum())
    return 1.0 / (others + 1)


def by_query(query: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """The samples of each query."""
    order = np.argsort(query, kind="stable")
    starts = np.flatnonzero(np.diff(query[order], prepend=query[order[:1]] - 1))
    yield from np.split(order, starts[1:])
