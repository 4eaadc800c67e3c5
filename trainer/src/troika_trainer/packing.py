"""Several examples in one row, so that next to nothing is padding.

Where one example ends and the next begins the positions start again at 0: transformers sees that
and lets no token attend across (a block-diagonal mask, or the lengths for flash attention). So the
loss of a packed batch is that of the padded one. Whether a model honours it is tried.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from .batch import Integers
from .errors import ConfigError


def best_fit(lengths: Integers, *, room: int) -> list[Integers]:
    """Put examples into rows: the longest first, each where it leaves the least room.

    Args:
        lengths: Tokens of each example, shape [examples].
        room: Tokens in a row; an example that is longer has a row of its own.

    Returns:
        The examples of each row, by number.
    """
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # room and number of each row, the fullest first
    for example in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[example])
        fullest = bisect_left(left, (length, 0))
        if fullest < len(left):
            space, row = left.pop(fullest)
            rows[row].append(example)
        else:
            space, row = room, len(rows)
            rows.append([example])
        insort(left, (space - length, row))
    return [np.array(row) for row in rows]


def joined(parts: Sequence[Sequence[Integers]], *, fill: int) -> torch.Tensor:
    """Rows of several arrays each, one after the other, filled up to the longest row.

    Returns:
        Shape [rows, tokens], int64.
    """
    rows = [np.concatenate(row) for row in parts]
    full = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        full[number, : len(row)] = row
    return torch.from_numpy(full)


def positions(lengths: Sequence[Integers]) -> torch.Tensor:
    """Positions that start again with every example, and with the padding of a row.

    Args:
        lengths: Tokens of the examples of each row.

    Returns:
        Shape [rows, tokens], int64.
    """
    width = max(int(row.sum()) for row in lengths)
    filled = [np.append(row, width - row.sum()) for row in lengths]
    return joined([[np.arange(length) for length in row] for row in filled], fill=0)


@torch.no_grad()
def check_model(model: PreTrainedModel) -> None:
    """Whether a model keeps the examples of a row apart.

    Raises:
        ConfigError: it does not: what it reads in one shows in the next.
    """
    ids = torch.arange(5, 21, device=model.device)[None] % model.config.vocab_size
    place = positions([np.array([9, 7])]).to(model.device)
    mode = model.training
    model.train(mode=False)
    try:
        packed = model(input_ids=ids, position_ids=place, use_cache=False).logits[0, 9:]
        alone = model(input_ids=ids[:, 9:], use_cache=False).logits[0]
    except (TypeError, ValueError) as error:
        raise _refusal(model) from error
    finally:
        model.train(mode)
    if not torch.allclose(packed, alone, atol=1e-4):
        raise _refusal(model)


def _refusal(model: PreTrainedModel) -> ConfigError:
    return ConfigError(
        f"data.packing: {type(model).__name__} does not keep the examples of a row apart",
        "leave packing out: examples of similar length share a batch without it",
    )
