"""Deterministic order, choice and splits, from hashes instead of a generator's state.

A hash of the item's own key gives the same answer on every machine, on every Python and in
whatever order the source lists its items.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

TRAIN, VALIDATION, TEST = NAMES = ("train", "validation", "test")
SEED = "troika"


def rank(key: str) -> int:
    """A number in [0, 2**64) that looks random and depends on the key alone."""
    return int.from_bytes(hashlib.sha256(f"{SEED}\0{key}".encode()).digest()[:8], "big")


def choose(options: Sequence[T], key: str) -> T:
    """One of the options, picked by the key."""
    return options[rank(key) * len(options) >> 64]


def shuffled(items: Iterable[T], key: Callable[[T], str]) -> list[T]:
    """The items in the order of their keys' hashes."""
    return sorted(items, key=lambda item: (rank(key(item)), key(item)))


def by_hash(key: str, validation: float = 0.1, test: float = 0.1) -> str:
    """The split of a key, on its own: adding items to the source moves none of the others."""
    place = rank(key) / 2**64
    return TEST if place < test else VALIDATION if place < test + validation else TRAIN


def by_weight(weights: Mapping[str, int], validation: float, test: float) -> dict[str, str]:
    """Splits of a few documents of very different sizes, near the asked share of the weight.

    `by_hash` on 130 documents gives shares that are far off by luck. Here the documents, in the
    order of their hashes, fill the test split, then validation, then train. A document goes in
    only while more than half of it fits, so no split overshoots by a whole large document.
    """
    total = sum(weights.values())
    room = {TEST: test * total, VALIDATION: validation * total}
    split = {}
    for name in shuffled(weights, str):
        fits = (part for part, left in room.items() if weights[name] / 2 < left)
        split[name] = next(fits, TRAIN)
        if split[name] in room:
            room[split[name]] -= weights[name]
    return split


def stratified(
    items: Iterable[T],
    key: Callable[[T], str],
    label: Callable[[T], str],
    validation: float = 0.1,
    test: float = 0.1,
) -> dict[str, list[T]]:
    """Splits with the same share of every label; each one shuffled by hash.

    A label with too few items for a share of its own still gives one to each held-out split
    if it has at least three.
    """
    groups = defaultdict(list)
    for item in items:
        groups[label(item)].append(item)
    split: dict[str, list[T]] = {name: [] for name in NAMES}
    for group in groups.values():
        ordered = shuffled(group, key)
        least = 1 if len(ordered) >= 3 else 0
        n_test = max(least, round(len(ordered) * test))
        n_held = n_test + max(least, round(len(ordered) * validation))
        split[TEST] += ordered[:n_test]
        split[VALIDATION] += ordered[n_test:n_held]
        split[TRAIN] += ordered[n_held:]
    return {name: shuffled(part, key) for name, part in split.items()}


def unique(items: Iterable[T], key: Callable[[T], str]) -> list[T]:
    """The first item of each key, in order."""
    first: dict[str, T] = {}
    for item in items:
        first.setdefault(key(item), item)
    return list(first.values())


def normal(text: str) -> str:
    """What two texts share if a reader would call them the same: their letters and digits."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.casefold()).split())
