"""Optimisation: how long, how fast and how exactly a run trains, and where it saves."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .base import DURATION, CamelModel, VolumeURI, cel, validations

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
INTERVAL = rf"{DURATION}|^[1-9][0-9]*steps$"
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass; weights and optimizer state stay float32."""

    FP32 = "FP32"
    BF16 = "BF16"


class ScheduleType(StrEnum):
    """Shape of the learning rate after the warm-up."""

    LINEAR = "Linear"
    COSINE = "Cosine"
    CONSTANT = "Constant"


class Optimizer(CamelModel):
    """AdamW with decoupled weight decay; biases and norms are not decayed."""

    type: Literal["AdamW"] = "AdamW"
    """Optimizer."""
    learning_rate: Annotated[float, Field(gt=0.0, le=10.0)] | None = None
    """Peak learning rate. Default: 5e-4 for pretraining, 5e-5 for fine-tuning."""
    weight_decay: Annotated[float, Field(ge=0.0, le=10.0)] = 0.01
    """Decay per step, times the learning rate."""
    betas: Annotated[list[Beta], Field(min_length=2, max_length=2)] = [0.9, 0.98]
    """Decay of the first and second moment."""
    epsilon: Annotated[float, Field(gt=0.0)] = 1e-8
    """Added to the denominator."""
    gradient_clip: Annotated[float, Field(ge=0.0)] = 1.0
    """Largest global L2 norm of the gradient; 0 turns clipping off."""


class Schedule(CamelModel):
    """Learning rate over the run."""

    type: ScheduleType = ScheduleType.LINEAR
    """Shape after the warm-up."""
    warmup_ratio: Ratio = 0.06
    """Share of all steps in which the rate rises linearly from 0."""
    final_ratio: Ratio = 0.0
    """Rate at the end as a share of the peak (Linear and Cosine)."""


class Training(CamelModel):
    """How long, how fast and how exactly to train."""

    model_config = {
        "json_schema_extra": validations(
            cel(
                "(has(self.steps) ? 1 : 0) + (has(self.tokens) ? 1 : 0) + "
                "(has(self.epochs) ? 1 : 0) == 1",
                "set exactly one of steps, tokens and epochs",
            ),
            cel(
                "!has(self.microBatchSize) || self.microBatchSize <= self.globalBatchSize",
                "microBatchSize must not be larger than globalBatchSize",
                field=".microBatchSize",
            ),
        )
    }
    steps: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Optimizer steps."""
    tokens: Annotated[int, Field(ge=1, json_schema_extra={"format": "int64"})] | None = None
    """Training tokens, padding not counted; rounded up to whole steps."""
    epochs: Annotated[float, Field(gt=0.0, le=10000.0)] | None = None
    """Passes over the training data."""
    global_batch_size: Annotated[int, Field(ge=1, le=1048576)] = 32
    """Sequences per optimizer step over all ranks; it stays when the number of ranks changes."""
    micro_batch_size: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Sequences per forward pass of one rank. Default: the rank's whole share, at most 32."""
    optimizer: Optimizer = Optimizer()
    """Optimizer and its rates."""
    schedule: Schedule = Schedule()
    """Learning rate over time."""
    precision: Precision = Precision.BF16
    """Arithmetic of the forward and backward pass."""
    compile: bool = False
    """Compile the model with torch.compile; pays on GPUs for long runs."""
    seed: Annotated[int, Field(ge=0, le=4294967295)] = 17
    """Seed of the weights, the order of the data, the masks and the dropout."""


class PretrainEvaluation(CamelModel):
    """When the validation loss is measured."""

    every_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between two measurements. Default: a tenth of the run."""
    max_sequences: Annotated[int, Field(ge=1)] = 2048
    """At most this many validation sequences a time."""


class FinetuneEvaluation(CamelModel):
    """How the best checkpoint is chosen. Validation runs after every epoch."""

    best_by: Literal["f1", "accuracy", "loss"] = "f1"
    """Metric on validation that chooses the exported checkpoint (f1 is the macro average)."""


class Checkpoint(CamelModel):
    """Where and how often the state of the run is saved."""

    uri: VolumeURI
    """Directory for checkpoints, on storage that every node mounts."""
    interval: Annotated[str, Field(pattern=INTERVAL, max_length=32)] = "10m"
    """Time between two checkpoints, such as 10m, or a number of steps, such as 500steps."""
    keep: Annotated[int, Field(ge=1, le=100)] = 3
    """Newest checkpoints to keep."""


class Output(CamelModel):
    """Where the trained model goes."""

    uri: VolumeURI
    """Directory for the model in save_pretrained layout: weights, tokenizer, card and report."""
