"""A batch of examples on its way to the model."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

Integers = npt.NDArray[np.int64]

IGNORED = -100
"""Label of a position where nothing is to be predicted."""


@dataclass(frozen=True)
class Batch:
    """Some examples, ready for the model. The counts stay on the host: asking costs no wait."""

    inputs: dict[str, torch.Tensor]
    """Arguments of the model, each [samples, ...]."""
    labels: torch.Tensor
    """What is to be predicted, [samples, ...]; `IGNORED` where nothing is."""
    weight: int
    """How many predictions the loss is summed over."""
    tokens: int
    """Real tokens, padding not counted."""
    pairs: int
    """Sum of the squared lengths, for the cost of attention."""

    packed: int | None = None
    """Number of examples where a row holds several."""

    @property
    def samples(self) -> int:
        """Number of examples."""
        return len(self.labels) if self.packed is None else self.packed

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; copies from pinned memory do not hold up the host."""
        if device.type == "cpu":
            return self
        return Batch(
            inputs={
                name: value.pin_memory().to(device, non_blocking=True)
                for name, value in self.inputs.items()
            },
            labels=self.labels.pin_memory().to(device, non_blocking=True),
            weight=self.weight,
            tokens=self.tokens,
            pairs=self.pairs,
            packed=self.packed,
        )


class Examples(Protocol):
    """The examples of one split, by number."""

    def __len__(self) -> int:
        """Number of examples."""

    def lengths(self, indices: Integers) -> Integers:
        """Tokens of each example, so that those of a length can share a batch."""

    def batch(self, indices: Integers, epochs: Integers) -> Batch:
        """These examples, each as it is in its epoch: a pure function, whoever asks and when."""


class Packable(Examples, Protocol):
    """Examples that can share a row."""

    def packed(self, rows: list[Integers]) -> Batch:
        """A batch with the examples of each row one after the other."""


def shifted_right(labels: torch.Tensor, config: Any) -> torch.Tensor:
    """What the decoder has read before each label: those before it. Shape [samples, tokens]."""
    shifted = labels.roll(1, dims=1)
    shifted[:, 0] = config.decoder_start_token_id
    return shifted.masked_fill(shifted == IGNORED, config.pad_token_id or 0)
