"""What the loop, the data and the report ask of a task."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from typing_extensions import override

from troika_api.v1alpha1.run import FinetuneRun
from troika_trainer.batch import Batch, Examples
from troika_trainer.flops import FlopCounter, flop_counter
from troika_trainer.method import Adapter
from troika_trainer.preprocessor import Preprocessing
from troika_trainer.report import Mistake, Report
from troika_trainer.rows import Row
from troika_trainer.runfile import Run
from troika_trainer.shards import ColumnType, Example, Store
from troika_trainer.tokenizer import Tokenizers

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Measured:
    """A split as the model sees it."""

    loss: float
    """Mean over all predictions."""
    weight: int
    """Number of predictions."""
    predictions: Numbers
    """What `Task.forward` gave for each example, in order. Shape [samples, ...]; where batches
    differ in the second dimension the narrow ones are filled with `IGNORED`."""


Look = Callable[[Examples], Numbers]
"""Runs the model over a split and gives its predictions for each example, in order."""


class MadeOnce(Protocol):
    """Makes a directory once, for all ranks and attempts, and for other jobs with the same data."""

    def __call__(self, kind: str, facts: Sequence[Any], fill: Callable[[Path], None]) -> Path:
        """A directory of this kind, filled now or earlier.

        Args:
            kind: The beginning of its name.
            facts: What it depends on besides the stores.
            fill: Writes its content into an empty directory.
        """


class Task(ABC):
    """One kind of work: which model, what an example is, what is predicted, how well.

    A subclass is named as the API names it and lives in the file of that name.
    """

    auto_model: ClassVar[Any]
    """transformers' Auto class with the right head."""
    pipeline_tag: ClassVar[str]
    """What the Hugging Face hub calls models of this kind."""
    preprocessing: ClassVar[Preprocessing] = Tokenizers(algorithm="WordPiece", bidirectional=True)
    """What turns the content of a row into numbers."""

    one_prediction_each: ClassVar[bool] = False
    """Whether every example is one prediction: then the examples of a step may be of one length."""

    held_out_by: ClassVar[tuple[str, ...]] = ()
    """Parts that columns play, as `data.columns` names them: where a share of the rows is held out,
    rows that are alike in these stay on one side. None where rows have nothing in common."""

    dropout: ClassVar[float | None] = None
    """Dropout where the run says nothing. None: what the model's configuration says."""

    @property
    def packs(self) -> bool:
        """Whether several training examples share a row."""
        return False

    def __init__(self, run: Run, preprocessor: Any) -> None:
        self.run = run
        self.preprocessor = preprocessor
        """The tokenizer, image processor, ...: what `preprocessing` has loaded or made."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The preprocessor of a task on text."""
        assert isinstance(self.preprocessor, PreTrainedTokenizerFast)
        return self.preprocessor

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

    def limits(self) -> dict[str, int]:
        """Columns of tokens that are cut at a length, with that length."""
        return {}

    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:  # noqa: ARG002
        """Facts about the training rows that encoding or the model needs, such as the labels."""
        return {}

    def widen(self, facts: dict[str, Any], held_out: Iterator[Row]) -> dict[str, Any]:  # noqa: ARG002
        """Add what only those training rows have that are held out, such as a rare label.

        Args:
            facts: What `survey` found in the others.
            held_out: A share of the rows of the training files. Files that the run names for
                validation have to do with what training has.
        """
        return facts

    def adopt(self, facts: dict[str, Any]) -> None:  # noqa: B027 - most tasks need none
        """Remember the facts that `survey` found."""

    def arrange(self, stores: Mapping[str, Store], made_once: MadeOnce) -> None:  # noqa: B027
        """Make what the examples need besides what each of them is."""

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

    def first_look(self, examples: Examples, look: Look) -> None:  # noqa: B027 - an offer
        """Look at a split with the model as it is before the first step of the run.

        Called for every split, in every attempt; what `look` sees is kept from the first one.
        """

    def flop_counter(self, model: PreTrainedModel) -> FlopCounter | None:
        """What a token costs, or None where the rules for transformers do not tell: no MFU then."""
        return flop_counter(model)

    @abstractmethod
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the model.

        Returns:
            The sum of the losses, shape [], float32; and for each example what metrics are made
            from, shape [samples, ...] (empty while training).
        """

    def finish(self, model: PreTrainedModel) -> None:  # noqa: B027 - an offer
        """Change the trained model into the one that is exported, once, after all scores."""

    # How well it does.

    @abstractmethod
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        """Scores by name, `loss` among them."""

    def report(self, measured: Measured, examples: Examples) -> Report | None:  # noqa: ARG002
        """More than numbers by name, where there is more to say."""
        return None

    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:  # noqa: ARG002
        """What went most wrong, worst first, where a person can see from it why."""
        return []


class FinetuneTask(Task):
    """A task that adapts a model to labelled rows."""

    @property
    def spec(self) -> FinetuneRun:
        """The run, which must be one that fine-tunes."""
        assert isinstance(self.run, FinetuneRun)
        return self.run


class Objective(nn.Module):
    """A model with its task's loss: what is differentiated, distributed and compiled."""

    def __init__(self, model: PreTrainedModel, task: Task, adapter: Adapter | None = None) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.adapter = adapter
        """What is exported in place of the model, where only an adapter was trained."""

    @override
    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return self.task.forward(self.model, batch)


def no_predictions(batch: Batch) -> torch.Tensor:
    """What `Task.forward` gives for metrics while training. Shape [samples, 0]."""
    return torch.empty(batch.samples, 0)


def while_measuring(
    model: PreTrainedModel, batch: Batch, predictions: torch.Tensor
) -> torch.Tensor:
    """The predictions, or nothing while training, when nobody reads them."""
    return no_predictions(batch) if model.training else predictions


def smallest_dtype(vocabulary: int) -> str:
    """The narrowest type that holds every token id."""
    return "uint16" if vocabulary <= np.iinfo(np.uint16).max + 1 else "uint32"
