"""run.json: what to train, the one file that the trainer reads. No Kubernetes word in it."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from .base import CamelModel
from .data import FinetuneData, PretrainData, TokenizerTraining
from .training import (
    Checkpoint,
    FinetuneEvaluation,
    Output,
    PretrainEvaluation,
    Training,
)


class Objective(StrEnum):
    """What a PretrainJob learns to predict."""

    MASKED_LM = "MaskedLM"
    CAUSAL_LM = "CausalLM"


class Task(StrEnum):
    """What a FinetuneJob learns to do."""

    TEXT_CLASSIFICATION = "TextClassification"


class Masking(CamelModel):
    """How MaskedLM hides tokens: of the chosen ones 80 % are masked, 10 % random, 10 % kept."""

    probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of the tokens that must be predicted."""


class RunModel(CamelModel):
    """The architecture to build from scratch (`config`), or weights to load (`path`)."""

    config: dict[str, Any] | None = None
    """transformers configuration; `model_type` names the architecture."""
    path: str | None = None
    """Directory, or hf://OWNER/NAME."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""


class RunTokenizer(CamelModel):
    """A tokenizer to train or to load. Neither: the one of the model."""

    train: TokenizerTraining | None = None
    """Learn it from the training text."""
    path: str | None = None
    """Directory, or hf://OWNER/NAME."""


class RunBase(CamelModel):
    """What both kinds of run have. Every URI is one that the trainer can open as it stands."""

    name: str
    """Name of the job, for logs, metrics and the model card."""
    model: RunModel
    """Architecture or weights to start from."""
    training: Training
    """How to train."""
    checkpoint: Checkpoint
    """Where to save the state of the run."""
    output: Output
    """Where to put the model."""


class PretrainRun(RunBase):
    """A run that learns from raw data."""

    kind: Literal["PretrainJob"] = "PretrainJob"
    """Tells the two kinds of run apart."""
    objective: Objective
    """What is predicted."""
    tokenizer: RunTokenizer = RunTokenizer()
    """Tokenizer."""
    masking: Masking = Masking()
    """How MaskedLM hides tokens."""
    data: PretrainData
    """Text to learn from."""
    evaluation: PretrainEvaluation = PretrainEvaluation()
    """When the validation loss is measured."""


class FinetuneRun(RunBase):
    """A run that adapts a trained model to a task and evaluates it."""

    kind: Literal["FinetuneJob"] = "FinetuneJob"
    """Tells the two kinds of run apart."""
    task: Task
    """What is learnt."""
    data: FinetuneData
    """Labelled rows."""
    evaluation: FinetuneEvaluation = FinetuneEvaluation()
    """How the best checkpoint is chosen."""


Run = Annotated[PretrainRun | FinetuneRun, Field(discriminator="kind")]
RUN: TypeAdapter[PretrainRun | FinetuneRun] = TypeAdapter(Run)
"""Reads and checks run.json: ``RUN.validate_json(text)``."""
