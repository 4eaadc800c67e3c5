"""run.json: what to train, the one file that the trainer reads. No Kubernetes word in it."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from .base import CamelModel
from .data import DEFAULT_COLUMNS, FinetuneData, PretrainData, TokenizerTraining
from .method import Loss, Method
from .tasks import GENERATION_FIELDS, TASKS, Criterion, Task, readers_of
from .tracking import Tracking
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
    DENOISING = "Denoising"
    MASKED_IMAGE = "MaskedImage"


PACKED = (Objective.MASKED_LM, Objective.CAUSAL_LM)
"""Objectives that can keep documents apart."""


class Masking(CamelModel):
    """What is hidden.

    MaskedLM: of the chosen tokens 80 % are masked, 10 % random, 10 % kept. Denoising: whole spans
    are hidden; T5 and its kin get a sentinel for each and predict the spans, BART and its kin get
    one mask for each and predict the text. MaskedImage: patches are hidden.
    """

    probability: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of the tokens or patches that are hidden. Default: 0.15; 0.3 for BART and its kin; 0.75
    for MaskedImage."""
    whole_word: bool = False
    """Hide all tokens of a word or none (MaskedLM)."""
    span_length: Annotated[float, Field(ge=1.0, le=64.0)] = 3.0
    """Mean length of a hidden span in tokens (Denoising)."""


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
    tracking: Tracking | None = None
    """Trackers that get the numbers; their keys stand in the environment."""


class PretrainRun(RunBase):
    """A run that learns from raw data."""

    kind: Literal["PretrainJob"] = "PretrainJob"
    """Tells the two kinds of run apart."""
    objective: Objective
    """What is predicted."""
    tokenizer: RunTokenizer = RunTokenizer()
    """Tokenizer."""
    masking: Masking = Masking()
    """What is hidden (MaskedLM, Denoising, MaskedImage)."""
    data: PretrainData
    """Text or images to learn from."""
    evaluation: PretrainEvaluation = PretrainEvaluation()
    """When the validation loss is measured."""

    @model_validator(mode="after")
    def _can_pack(self) -> "PretrainRun":
        """What the CRD states in CEL, for run files written by hand."""
        if self.data.packing and self.objective not in PACKED:
            raise ValueError(f"data.packing is read by {' and '.join(PACKED)} only")
        if self.data.packing and self.data.streaming:
            raise ValueError("data.packing needs the lengths of all texts: leave streaming out")
        return self


class FinetuneRun(RunBase):
    """A run that adapts a trained model to a task and evaluates it."""

    kind: Literal["FinetuneJob"] = "FinetuneJob"
    """Tells the two kinds of run apart."""
    task: Task
    """What is learnt."""
    method: Method = Method()
    """Which weights are trained."""
    loss: Loss = Loss()
    """How errors are weighed."""
    data: FinetuneData
    """Labelled rows."""
    evaluation: FinetuneEvaluation = FinetuneEvaluation()
    """When validation is measured, and how the best checkpoint is chosen."""

    @property
    def best_by(self) -> Criterion:
        """The score that chooses the checkpoint."""
        return self.evaluation.best_by or TASKS[self.task].criteria[0]

    @model_validator(mode="after")
    def _fits_the_task(self) -> "FinetuneRun":
        """What the CRD states in CEL, for run files written by hand."""
        facts = TASKS[self.task]
        if self.best_by not in facts.criteria:
            raise ValueError(
                f"evaluation.bestBy {self.best_by}: {self.task} is chosen by one of "
                + ", ".join(facts.criteria)
            )
        for role, column in self.data.columns.wire().items():
            if role not in facts.columns and column != DEFAULT_COLUMNS[role]:
                raise ValueError(f"data.columns.{role} is not read by {self.task}")
        for field in self.loss.wire():
            if field not in facts.loss:
                raise ValueError(f"loss.{field} is read by {', '.join(readers_of(field))} only")
        for field in self.evaluation.wire():
            if field in GENERATION_FIELDS and self.task is not Task.SEQ2SEQ:
                raise ValueError(f"evaluation.{field} is read by {Task.SEQ2SEQ} only")
        self.data.check(self.task)
        self.method.check()
        return self


Run = Annotated[PretrainRun | FinetuneRun, Field(discriminator="kind")]
RUN: TypeAdapter[PretrainRun | FinetuneRun] = TypeAdapter(Run)
"""Reads and checks run.json: ``RUN.validate_json(text)``."""
