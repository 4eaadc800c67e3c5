"""Hide spans of a sequence for a model to restore: T5's sentinels and BART's infilling.

Pure functions of the tokens and a generator of chance.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Holes:
    """How much is hidden."""

    share: float
    """Of the tokens."""
    span: float
    """Mean length of a hidden span in tokens."""


def span_mask(length: int, holes: Holes, chance: np.random.Generator) -> Flags:
    """T5's noise: a fixed number of hidden tokens in a fixed number of spans, at random places.

    Args:
        length: Tokens of the sequence.
        holes: How much is hidden.
        chance: Where the places come from.

    Returns:
        True where a token is hidden, shape [length]. The ring of spans is turned at random, so
        that every place is hidden as often; one span may thus be cut in two.
    """
    hidden = min(max(round(length * holes.share), 1), length - 1)
    spans = min(max(round(hidden / holes.span), 1), length - hidden)
    lengths = np.stack(
        [_parts(length - hidden, spans, chance), _parts(hidden, spans, chance)], axis=1
    )
    mask = np.repeat(np.tile([False, True], spans), lengths.flatten())
    return np.roll(mask, int(chance.integers(length)))


def _parts(total: int, number: int, chance: np.random.Generator) -> Integers:
    """Cut a length into that many parts of at least one, every way as likely. Shape [number]."""
    cuts = np.sort(chance.choice(total - 1, number - 1, replace=False)) + 1
    parts: Integers = np.diff(np.concatenate([[0], cuts, [total]]))
    return parts


def with_sentinels(
    tokens: Integers, hidden: Flags, sentinels: Integers, *, end: int
) -> tuple[Integers, Integers]:
    """T5's pair of source and target: each hidden span becomes a sentinel of its own.

    Args:
        tokens: Token ids, shape [length].
        hidden: Which are hidden, shape [length]; spans beyond the number of sentinels stay.
        sentinels: Their token ids, in the order of use.
        end: Id of the token that ends both.
    """
    begins = hidden & ~np.concatenate([[False], hidden[:-1]])
    number = np.cumsum(begins)
    hidden, begins = hidden & (number <= len(sentinels)), begins & (number <= len(sentinels))
    source = np.where(begins, sentinels[np.clip(number - 1, 0, len(sentinels) - 1)], tokens)
    target = np.insert(tokens, np.flatnonzero(begins), sentinels[: int(begins.sum())])
    wanted = np.insert(hidden, np.flatnonzero(begins), values=True)
    return np.append(source[~hidden | begins], end), np.append(target[wanted], end)


def infilled(
    tokens: Integers,
    ordinary: Flags,
    holes: Holes,
    *,
    mask: int,
    chance: np.random.Generator,
) -> Integers:
    """BART's source: spans of Poisson lengths become one mask each; of length 0 it is put in.

    Args:
        tokens: Token ids, shape [length]; they are the target as they stand.
        ordinary: Tokens that may be hidden; others stay, shape [length].
        holes: How much is hidden.
        mask: Id of the mask.
        chance: Where lengths and places come from.
    """
    wanted = max(round(len(tokens) * holes.share), 1)
    lengths = chance.poisson(holes.span, size=2 * wanted + 8)
    spans = int(np.searchsorted(np.cumsum(lengths), wanted)) + 1
    lengths = lengths[:spans]
    lengths[-1] -= max(int(lengths.sum()) - wanted, 0)
    gaps = np.sort(chance.integers(0, len(tokens) - int(lengths.sum()) + 1, size=spans))
    starts = gaps + np.cumsum(lengths) - lengths
    hidden = np.zeros(len(tokens), dtype=bool)
    for start, length in zip(starts, lengths, strict=True):
        hidden[start : start + length] = True
    kept = np.insert(~hidden | ~ordinary, starts, values=True)
    source: Integers = np.insert(tokens, starts, mask)[kept]
    return source
