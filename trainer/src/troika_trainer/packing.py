"""Several examples in one row, so that next to nothing is padding.

Where one example ends and the next begins the positions start again at 0: transformers sees that
and lets no token of a decoder attend across (a block-diagonal mask, or the lengths for flash
attention); an encoder is given the mask. So the loss of a packed batch is that of the padded one.
Whether a model honours it is tried.
"""

import inspect
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    packed_sequence_mask_function,
)

from .batch import Integers
from .errors import ConfigError, is_out_of_memory

WINDOW = 2048
"""Pieces of text that are put into rows together: near each other on disk, and enough of them."""

LONGEST_TRIAL = 512
"""Tokens: more than the windows that the layers of encoders look through."""

Inputs = dict[str, torch.Tensor]


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


@dataclass(frozen=True)
class Layout:
    """Which pieces of texts make each row, where the tokens of all texts are one column."""

    starts: Integers
    """Where each piece begins in the column, row after row, shape [pieces]."""
    lengths: Integers
    """Tokens of each piece, at least 1, shape [pieces]."""
    bounds: Integers
    """Where the pieces of each row begin, and the end of the last, shape [rows + 1]."""
    tokens: Integers
    """Tokens of each row, without padding, shape [rows]."""

    @classmethod
    def of(cls, texts: Integers, *, room: int) -> Self:
        """Cut long texts into pieces, and put the pieces of a window into rows, best-fit first.

        A row stands where its first piece does: the first rows are the first texts, of any length.

        Args:
            texts: Tokens of each text, shape [texts].
            room: Tokens in a row.
        """
        cuts = -(-texts // room)
        place = np.arange(cuts.sum()) - np.repeat(np.cumsum(cuts) - cuts, cuts)  # in its text
        lengths = np.minimum(np.repeat(texts, cuts) - place * room, room)
        row = np.arange(len(lengths))  # named after its first piece
        short = np.flatnonzero(lengths < room)
        for begin in range(0, len(short), WINDOW):
            window = short[begin : begin + WINDOW]
            for together in best_fit(lengths[window], room=room):
                row[window[together]] = window[together.min()]
        order = np.argsort(row, kind="stable")
        begins = np.flatnonzero(np.diff(row[order], prepend=-1))
        starts = np.cumsum(lengths) - lengths
        return cls(
            starts=starts[order],
            lengths=lengths[order],
            bounds=np.append(begins, len(order)),
            tokens=np.add.reduceat(lengths[order], begins) if len(begins) else lengths,
        )

    @classmethod
    def open(cls, directory: Path) -> Self:
        """One that was saved, mapped into memory: all ranks of a node share it."""
        return cls(*(np.load(directory / f"{name}.npy", mmap_mode="r") for name in _PARTS))

    def save(self, directory: Path) -> None:
        """Write it, for `open`."""
        directory.mkdir(parents=True)
        for name in _PARTS:
            np.save(directory / f"{name}.npy", getattr(self, name))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.bounds) - 1

    def pieces(self, row: int) -> tuple[Integers, Integers]:
        """Where the pieces of a row begin in the column, and their tokens; both [pieces]."""
        mine = slice(self.bounds[row], self.bounds[row + 1])
        return self.starts[mine], self.lengths[mine]


_PARTS = tuple(field.name for field in fields(Layout))


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
    """Positions that start again with every example; each token of the padding is one by itself.

    Args:
        lengths: Tokens of the examples of each row.

    Returns:
        Shape [rows, tokens], int64.
    """
    return joined([[np.arange(length) for length in row] for row in lengths], fill=0)


def first_position(model: PreTrainedModel) -> int:
    """Position of the first token: RoBERTa and its kin count from the padding index up."""
    return max(
        [
            int(module.padding_idx) + 1
            for name, module in model.named_modules()
            if name.endswith("position_embeddings")
            and isinstance(module, nn.Embedding)
            and module.padding_idx is not None
        ],
        default=0,
    )


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """A cache of keys and values is for generation; with one, transformers sees no packing."""
    known = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in known else {}


class Encoder:
    """What an encoder must be told of the rows that it gets: it reads nothing in the positions."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._first = first_position(model)

    def told(self, inputs: Inputs) -> dict[str, Any]:
        """The inputs with a mask that lets no token attend across, made where the model is."""
        place = inputs["position_ids"]
        example = (place == 0).cumsum(-1)
        settings: dict[str, Any] = {
            "config": self._model.config,
            "inputs_embeds": torch.empty(
                *place.shape, 0, dtype=self._model.dtype, device=place.device
            ),
            "attention_mask": None,
            "and_mask_function": packed_sequence_mask_function(example),
        }
        mask: Any = create_bidirectional_mask(**settings)
        if "sliding_attention" in (getattr(self._model.config, "layer_types", None) or ()):
            sliding = create_bidirectional_sliding_window_mask(**settings)
            mask = {"full_attention": mask, "sliding_attention": sliding}
        return {**inputs, "position_ids": place + self._first, "attention_mask": mask}


def _as_they_are(inputs: Inputs) -> dict[str, Any]:
    return inputs


@torch.no_grad()
def check_model(
    model: PreTrainedModel,
    *,
    told: Callable[[Inputs], dict[str, Any]] = _as_they_are,
    room: int = 16,
) -> None:
    """Whether a model keeps the examples of a row apart.

    Args:
        model: The model.
        told: What it is told of packed inputs besides their positions.
        room: Tokens to try it on.

    Raises:
        ConfigError: it does not: what it reads in one shows in the next.
    """
    ids = (5 + torch.arange(room, device=model.device) % (model.config.vocab_size - 5))[None]
    first = room // 2 + 1
    place = positions([np.array([first, room - first])]).to(model.device)
    options, mode = without_cache(model), model.training
    model.train(mode=False)
    try:
        inputs = told({"input_ids": ids, "position_ids": place})
        packed = model(**inputs, **options).logits[0, first:]
        alone = model(input_ids=ids[:, first:], **options).logits[0]
    except (RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise _refusal(model) from error
    finally:
        model.train(mode)
    if not torch.allclose(packed, alone, atol=1e-4):
        raise _refusal(model)


def _refusal(model: PreTrainedModel) -> ConfigError:
    return ConfigError(
        f"data.packing: {type(model).__name__} does not keep the examples of a row apart",
        "leave packing out",
    )
