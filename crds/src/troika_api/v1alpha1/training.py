"""Optimisation: how long, how fast and how exactly a run trains, and where it saves."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .base import DURATION, INT_OR_STRING, CamelModel, VolumeURI, cel, validations
from .tasks import Criterion

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
AUTO = "Auto"
STEPS = "steps"
INTERVAL = rf"{DURATION}|^[1-9][0-9]*{STEPS}$|^{AUTO}$"
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class Precision(StrEnum):
    """Arithmetic of the forward and backward pass; weights and optimizer state stay float32.

    FP8: BF16, with the matrix products of the layers in 8 bits; needs GPUs that have it (NVIDIA
    compute capability 8.9 or later), and is refused at the start on others and on the CPU. It
    implies compile: scaling to 8 bits takes longer than it saves where it is not compiled.
    """

    FP32 = "FP32"
    BF16 = "BF16"
    FP8 = "FP8"


class Sharding(StrEnum):
    """How the state of the training lies on the ranks.

    None: a copy of weights and optimizer state on each (data parallel). FSDP: each holds a part of
    them. HybridFSDP: the ranks of a node hold the parts among them, and every node has all, so that
    only gradients travel between nodes. On one rank all three are the same.
    """

    NONE = "None"
    FSDP = "FSDP"
    HYBRID = "HybridFSDP"


class ActivationCheckpointing(StrEnum):
    """What the forward pass keeps for the backward pass.

    None: everything. Selective: the results of matrix products and attention of each layer; what
    is cheap is computed again. Full: the input of each layer; all else is computed again.
    """

    NONE = "None"
    SELECTIVE = "Selective"
    FULL = "Full"


MicroBatchSize = Annotated[
    Annotated[int, Field(ge=1, le=65536)] | Literal["Auto"],
    Field(
        json_schema_extra=validations(
            cel(
                "type(self) == string ? self == 'Auto' : self >= 1 && self <= 65536",
                "expected a number from 1 to 65536, or Auto",
            ),
            **{INT_OR_STRING: True},
        )
    ),
]


class Compile(StrEnum):
    """Whether the model is compiled with torch.compile.

    Never: it runs as it is written. Always: it is compiled at the start, which takes minutes. Auto:
    a run of half an hour or more is tried both ways, and compiled where that is faster; the choice
    is kept for the run.
    """

    NEVER = "Never"
    ALWAYS = "Always"
    AUTO = "Auto"


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
    """Peak learning rate. Default: 5e-4 for pretraining; for fine-tuning 5e-5 (Full), 2e-4 (LoRA,
    QLoRA) or 1e-3 (Frozen); for Preference a twentieth of that: 2.5e-6, 1e-5 or 5e-5."""
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
                "!has(self.microBatchSize) || type(self.microBatchSize) == string || "
                "self.microBatchSize <= self.globalBatchSize",
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
    micro_batch_size: MicroBatchSize | None = None
    """Sequences per forward pass of one rank; the rest of its share of a step is accumulated. Auto:
    found by trying and kept for the run. Default: the rank's whole share, but at most 32, and on a
    CPU at most 4096 tokens. Where memory runs out it is halved, whatever is set here."""
    optimizer: Optimizer = Optimizer()
    """Optimizer and its rates."""
    schedule: Schedule = Schedule()
    """Learning rate over time."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Dropout everywhere in the model. Default: what the model's configuration says; none for
    Preference, whose reference is measured without."""
    precision: Precision = Precision.BF16
    """Arithmetic of the forward and backward pass."""
    sharding: Sharding = Sharding.NONE
    """How weights, gradients and optimizer state lie on the ranks."""
    activation_checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE
    """What the forward pass keeps, and what the backward pass computes again to save memory."""
    compile: Compile = Compile.NEVER
    """Whether the model is compiled; Auto: where a trial shows that it pays. The default gives a
    result that does not depend on the machine. With FP8 it always is."""
    seed: Annotated[int, Field(ge=0, le=4294967295)] = 17
    """Seed of the weights, the order of the data, the masks and the dropout."""


class PretrainEvaluation(CamelModel):
    """When the validation loss is measured."""

    every_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between two measurements. Default: a tenth of the run."""
    max_sequences: Annotated[int, Field(ge=1)] = 2048
    """At most this many validation sequences a time."""


class FinetuneEvaluation(CamelModel):
    """When validation is measured, and how the best checkpoint is chosen by that."""

    every_steps: Annotated[int, Field(ge=1)] | None = None
    """Steps between two measurements; the last step is always measured. Default: after every
    epoch, which of a run of one epoch is once, at its end."""
    best_by: Criterion | None = None
    """Score on validation that chooses the exported checkpoint; of losses and errors the lowest,
    of the others the highest. Default: f1 (macro for classes, of whole entities for
    TokenClassification), pearson for Regression, ndcgAt10 for Ranking, bleu for Seq2Seq, loss for
    Chat, accuracy for Preference, mAP for ObjectDetection, wer for SpeechRecognition."""
    patience: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Stop early after this many evaluations in a row that brought no better score; without
    everySteps these are epochs. Default: train to the end."""
    max_sequences: Annotated[int, Field(ge=1)] | None = None
    """At most this many validation rows a time: the first, the same each time (Seq2Seq, which
    writes a text for every row that is measured: time grows with their number, maxNewTokens and
    beams). The final report is on all rows of its split. Default: the whole split."""
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] | None = None
    """Longest text written for a source in evaluation, in tokens; no longer than the model's
    positions (Seq2Seq). Default: 128, or all positions where there are fewer."""
    beams: Annotated[int, Field(ge=1, le=64)] | None = None
    """Beams of the search for that text (Seq2Seq). Default: 1, the likeliest token each time."""


class Checkpoint(CamelModel):
    """Where and how often the state of the run is saved."""

    uri: VolumeURI
    """Directory for checkpoints, on storage that every node mounts. A later job with the same one
    takes it over and goes on from there, if it reads the same data in the same order."""
    interval: Annotated[str, Field(pattern=INTERVAL, max_length=32)] = "10m"
    """Time between two checkpoints, such as 10m; a number of steps, such as 500steps; or Auto.
    Auto: as often as pays (Young/Daly), from the measured cost and the failures seen so far."""
    keep: Annotated[int, Field(ge=1, le=100)] = 3
    """Newest checkpoints to keep."""


class Output(CamelModel):
    """Where the trained model goes."""

    uri: VolumeURI
    """Directory for the model in save_pretrained layout: weights, tokenizer, card and report."""
