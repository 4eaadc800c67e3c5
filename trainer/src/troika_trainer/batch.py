"""A batch of examples on its way to the model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

Integers = npt.NDArray[np.int64]

IGNORED = -100
"""Label of a position where nothing is to be predicted."""

Where = tuple[torch.Tensor, ...]
"""Rows and columns of positions, each of shape [positions]."""


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
    places: torch.Tensor | None = None
    """Rows and columns of what is to be predicted, [2, predictions], where a task looks only there.

    Found where the batch is made: to find them on a GPU is to wait for it.
    """

    @property
    def samples(self) -> int:
        """Number of examples."""
        return len(self.labels) if self.packed is None else self.packed

    @property
    def where(self) -> Where:
        """The two rows of `places`."""
        assert self.places is not None
        return self.places[0], self.places[1]

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self._tensors)

    @property
    def _tensors(self) -> list[torch.Tensor]:
        return [
            *self.inputs.values(),
            self.labels,
            *([] if self.places is None else [self.places]),
        ]

    def mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The same batch with every tensor changed."""
        return replace(
            self,
            inputs={name: change(value) for name, value in self.inputs.items()},
            labels=change(self.labels),
            places=None if self.places is None else change(self.places),
        )

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; copies from pinned memory do not hold up the host."""
        if device.type == "cpu":
            return self

        def there(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.device.type == device.type:
                return tensor
            return tensor.pin_memory().to(device, non_blocking=True)

        return self.mapped(there)


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


def places_of(labels: torch.Tensor) -> torch.Tensor:
    """Rows and columns of the labels that are not `IGNORED`, in their order.

    Args:
        labels: Shape [rows, columns], on the host.

    Returns:
        Shape [2, predictions].
    """
    return (labels != IGNORED).nonzero().t().contiguous()


def with_decoder_inputs(batch: Batch, config: Any) -> Batch:
    """The batch with what the decoder has read before each label: those before it."""
    shifted = batch.labels.roll(1, dims=1)
    shifted[:, 0] = config.decoder_start_token_id
    shifted = shifted.masked_fill(shifted == IGNORED, config.pad_token_id or 0)
    return replace(batch, inputs={**batch.inputs, "decoder_input_ids": shifted})
