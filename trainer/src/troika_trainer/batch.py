"""A batch of examples on its way to the model."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Some examples, ready for the model. The counts stay on the host: asking costs no wait."""

    inputs: dict[str, torch.Tensor]
    """Arguments of the model, each [samples, ...]."""
    labels: torch.Tensor
    """What is to be predicted; -100 where nothing is."""
    weight: int
    """How many predictions the loss is summed over."""
    tokens: int
    """Real tokens, padding not counted."""
    pairs: int
    """Sum of the squared lengths, for the cost of attention."""

    @property
    def samples(self) -> int:
        """Number of examples."""
        return len(self.labels)

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
        )


class Examples(Protocol):
    """The examples of one split, by number."""

    def __len__(self) -> int:
        """Number of examples."""

    def lengths(self, indices: Integers) -> Integers:
        """Tokens of each example, so that those of a length can share a batch."""

    def batch(self, indices: Integers, epochs: Integers) -> Batch:
        """These examples, each as it is in its epoch: a pure function, whoever asks and when."""
