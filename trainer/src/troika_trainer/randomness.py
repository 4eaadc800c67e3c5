"""Chance as a function: every draw depends on its place in the run and on nothing before it.

That is what makes a resumed run, or one on another number of ranks, see the same data and the same
masks. numpy's generators are sequences; these are hashes (the finaliser of splitmix64).
"""

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 4


def mix(words: Words) -> Words:
    """Scatter 64-bit words so that neighbours have nothing in common. Same shape."""
    with np.errstate(over="ignore"):
        words = words + _GOLDEN
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def draw(*coordinates: int | npt.NDArray[np.integer]) -> Words:
    """A random word for each point; the coordinates broadcast against each other.

    >>> draw(seed, epoch, samples[:, None], positions[None, :])   # shape [samples, positions]
    """
    state: Words = np.zeros((), dtype=np.uint64)
    for coordinate in coordinates:
        state = mix(state ^ np.asarray(coordinate).astype(np.uint64))
    return state


def uniform(*coordinates: int | npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Like `draw`, as numbers in [0, 1)."""
    return (draw(*coordinates) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(indices: npt.NDArray[np.integer], size: int, *key: int) -> npt.NDArray[np.int64]:
    """Where each index of `range(size)` goes in a shuffle, without making the shuffle.

    A Feistel network on the smallest square of a power of two that holds `size`; whoever lands
    outside walks on until inside, fewer than four times on average.
    """
    half = np.uint64(max(1, (max(size - 1, 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    words = np.asarray(indices).astype(np.uint64)
    outside = np.ones(words.shape, dtype=bool)
    while outside.any():
        left, right = words[outside] >> half, words[outside] & low
        for round_ in range(_ROUNDS):
            left, right = right, left ^ (draw(*key, round_, right.astype(np.int64)) & low)
        words[outside] = (left << half) | right
        outside[outside] = words[outside] >= np.uint64(size)
    return words.astype(np.int64)
