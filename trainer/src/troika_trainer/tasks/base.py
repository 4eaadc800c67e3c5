"""What the loop, the data and the report ask of a task."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from typing_extensions import override

from troika_trainer.batch import Batch, Examples
from troika_trainer.rows import Row
from troika_trainer.runfile import Run
from troika_trainer.shards import ColumnType, Example, Store

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Measured:
    """A split as the model sees it."""

    loss: float
    """Mean over all predictions."""
    weight: int
    """Number of predictions."""
    predictions: Numbers
    """What `Task.forward` gave for each example, in order. Shape [samples, ...]."""


class Task(ABC):
    """One kind of work: which model, what an example is, what is predicted, how well.

    A subclass is named as the API names it and lives in the file of that name.
    """

    auto_model: ClassVar[Any]
    """transformers' Auto class with the right head."""
    pipeline_tag: ClassVar[str]
    """What the Hugging Face hub calls models of this kind."""
    tokenizer_algorithm: ClassVar[str] = "WordPiece"
    """For a tokenizer learnt from the data, where the run names none."""
    bidirectional: ClassVar[bool] = True
    """Whether text is framed by special tokens and can be masked."""

    def __init__(self, run: Run, tokenizer: PreTrainedTokenizerFast) -> None:
        self.run = run
        self.tokenizer = tokenizer

    # From rows to examples on disk.

    @property
    @abstractmethod
    def columns(self) -> dict[str, ColumnType]:
        """What an example consists of."""

    @abstractmethod
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        """Rows to examples; a row may become none.

        Raises:
            DataError: a row is not what the run promised.
        """

    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:  # noqa: ARG002
        """Facts about the training rows that encoding or the model needs, such as the labels."""
        return {}

    def adopt(self, facts: dict[str, Any]) -> None:  # noqa: B027 - most tasks need none
        """Remember the facts that `survey` found."""

    # From examples to batches.

    @abstractmethod
    def examples(self, store: Store) -> Examples:
        """The examples of a split."""

    # The model and its loss.

    def model_settings(self) -> dict[str, Any]:
        """What the head needs in the model's configuration."""
        return {}

    def attach(self, model: PreTrainedModel) -> None:  # noqa: B027 - an offer
        """Look at the model once, before the first batch."""

    @abstractmethod
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the model.

        Returns:
            The sum of the losses, shape [], float32; and for each example what metrics are made
            from, shape [samples, ...] (empty while training).
        """

    # How well it does.

    @abstractmethod
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        """Scores by name, `loss` among them."""

    def report(self, measured: Measured, examples: Examples) -> Any:  # noqa: ARG002
        """More than numbers by name: a `ClassificationReport`, where it is one."""
        return None


class Objective(nn.Module):
    """A model with its task's loss: what is differentiated, distributed and compiled."""

    def __init__(self, model: PreTrainedModel, task: Task) -> None:
        super().__init__()
        self.model = model
        self.task = task

    @override
    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return self.task.forward(self.model, batch)


def no_predictions(batch: Batch) -> torch.Tensor:
    """What `Task.forward` gives for metrics while training. Shape [samples, 0]."""
    return torch.empty(batch.samples, 0)


def smallest_dtype(vocabulary: int) -> str:
    """The narrowest type that holds every token id."""
    return "uint16" if vocabulary <= np.iinfo(np.uint16).max + 1 else "uint32"
