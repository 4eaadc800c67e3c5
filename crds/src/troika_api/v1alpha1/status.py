"""What the operator knows about a job. Written by the operator only."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer

from troika_api.contract import FailureClass

from .base import CamelModel

Timestamp = Annotated[
    datetime,
    PlainSerializer(lambda t: t.strftime("%Y-%m-%dT%H:%M:%SZ"), when_used="json"),
]
Count = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]
Message = Annotated[str, Field(max_length=4096)]
KeyedList = {"x-kubernetes-list-type": "map"}
MAX_ATTEMPTS_RECORDED = 20


class Phase(StrEnum):
    """One word for humans, derived from the conditions; programs wait on conditions."""

    PENDING = "Pending"
    WAITING = "Waiting"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    INVALID = "Invalid"


class ConditionType(StrEnum):
    """Types of the conditions."""

    VALID = "Valid"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    SUSPENDED = "Suspended"
    STALLED = "Stalled"


class Condition(CamelModel):
    """As metav1.Condition."""

    type: ConditionType
    """What is stated."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[
        str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)
    ]
    """Why, in one CamelCase word."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, in a sentence: what happened, what was expected, what to change."""
    last_transition_time: Timestamp
    """When status last changed."""
    observed_generation: Count | None = None
    """Generation of the spec that this was said about."""


class Progress(CamelModel):
    """How far the run is."""

    step: Count = 0
    """Optimizer steps done."""
    total_steps: Count | None = None
    """Steps of the whole run."""
    ratio: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """step / totalSteps."""
    percent: str | None = None
    """The ratio for humans."""
    epoch: Annotated[float, Field(ge=0.0)] | None = None
    """Passes over the training data so far."""
    eta_seconds: Count | None = None
    """Time to the end at the present speed, in seconds."""
    eta: str | None = None
    """The same for humans."""
    tokens: Count | None = None
    """Training tokens seen, padding not counted."""
    loss: float | None = None
    """Training loss, mean over the last steps, in nats per predicted token or per row."""
    validation_loss: float | None = None
    """Newest loss on the validation split."""
    stage: str | None = None
    """What the trainer is doing, for example Tokenizing, Training or Evaluating."""


class Throughput(CamelModel):
    """How fast the run is, over the last poll interval."""

    tokens_per_second: Annotated[int, Field(ge=0)] | None = None
    """Training tokens per second over all ranks, padding not counted."""
    model_flops_utilization: Annotated[float, Field(ge=0.0)] | None = None
    """MFU, 0 to 1, against the device's dense peak; absent where that is not known."""
    data_wait_ratio: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Share of the step time spent waiting for data."""


class CheckpointStatus(CamelModel):
    """The newest complete checkpoint."""

    step: Count
    """Step that it holds."""
    time: Timestamp | None = None
    """When it was committed."""
    uri: Annotated[str, Field(max_length=1024)] | None = None
    """Directory, as a URI of the spec's form."""


class ClassScore(CamelModel):
    """One line of the classification report."""

    name: Annotated[str, Field(max_length=256)]
    """Class."""
    precision: float
    """Precision, 0 to 1."""
    recall: float
    """Recall, 0 to 1."""
    f1: float
    """F1, 0 to 1."""
    support: Count
    """Rows of the class."""


class EvaluationStatus(CamelModel):
    """Scores of the exported model."""

    split: Literal["validation", "test"]
    """Split that was scored."""
    metrics: Annotated[dict[str, float], Field(max_length=32)] = {}
    """Headline scores by name, for example loss, perplexity, accuracy, f1 or f1Weighted."""
    classes: Annotated[list[ClassScore], Field(max_length=100)] = []
    """Scores per class: those with the most rows, as many as the pod's termination message of 4 KiB
    brings, about 40 and never more than 100. report.json has all."""
    best_step: Count | None = None
    """Step of the checkpoint that was chosen."""


class Failure(CamelModel):
    """Why an attempt ended."""

    class_: Annotated[FailureClass, Field(alias="class")]
    """Class, which decides whether there is another attempt."""
    message: Message
    """What happened and where."""
    remedy: Message | None = None
    """What to change."""
    node: Annotated[str, Field(max_length=253)] | None = None
    """Node of the pod that failed first."""
    pod: Annotated[str, Field(max_length=253)] | None = None
    """Pod that failed first."""
    rank: Count | None = None
    """Rank that failed first."""
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """Exit code of its container."""


class Outcome(StrEnum):
    """How an attempt ended."""

    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    PREEMPTED = "Preempted"
    SUSPENDED = "Suspended"
    RESIZED = "Resized"


class Attempt(CamelModel):
    """One gang of pods."""

    number: Annotated[int, Field(ge=0)]
    """Counts from 0; also the fencing token of checkpoints and rendezvous."""
    nodes: Annotated[int, Field(ge=1)]
    """Pods."""
    processes_per_node: Annotated[int, Field(ge=1)]
    """Trainer processes of each pod."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """GPUs of each pod."""
    micro_batch_divisor: Annotated[int, Field(ge=1)] = 1
    """By how much the micro-batch was divided after running out of memory."""
    started: Timestamp
    """When the attempt was created."""
    ended: Timestamp | None = None
    """When it ended."""
    first_step: Count | None = None
    """First step that it made."""
    last_step: Count | None = None
    """Last step that was seen."""
    training_seconds: Count | None = None
    """Time spent in steps, in seconds."""
    outcome: Outcome = Outcome.RUNNING
    """How it ended."""
    failure: Failure | None = None
    """Why it failed."""


class Goodput(CamelModel):
    """What the pods' time was spent on."""

    ratio: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    """Time in steps that counted over the time that pods were held."""
    pod_seconds: Count = 0
    """Time that pods were held, in seconds times pods; ended attempts only, as all that is here."""
    counted_pod_seconds: Count = 0
    """The part of it spent in steps that a checkpoint or the result holds."""
    gpu_hours: Annotated[float, Field(ge=0.0)] = 0.0
    """GPU hours held."""
    wasted_gpu_hours: Annotated[float, Field(ge=0.0)] = 0.0
    """GPU hours held without a step that counted."""


class ModelStatus(CamelModel):
    """The exported model."""

    uri: Annotated[str, Field(max_length=1024)]
    """Directory that from_pretrained reads."""


class JobStatus(CamelModel):
    """Status of a PretrainJob or FinetuneJob."""

    phase: Phase | None = None
    """One word for humans."""
    reason: Message | None = None
    """Why it is in this phase, in a sentence."""
    observed_generation: Count | None = None
    """Newest generation of the spec that the operator acted on."""
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=16,
            json_schema_extra={**KeyedList, "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = []
    """What holds of the job, for programs."""
    started: Timestamp | None = None
    """When the first attempt was created."""
    finished: Timestamp | None = None
    """When the job completed or failed."""
    suspended_seconds: Count | None = None
    """Time spent suspended so far, in seconds."""
    restarts: Count = 0
    """Attempts after the first that a failure made necessary."""
    gpus: Count | None = None
    """GPUs that the present attempt holds."""
    base_model: ModelStatus | None = None
    """Weights of another job that this one starts from, once that job has made them."""
    progress: Progress | None = None
    """How far it is."""
    throughput: Throughput | None = None
    """How fast it is."""
    checkpoint: CheckpointStatus | None = None
    """Newest complete checkpoint."""
    evaluation: EvaluationStatus | None = None
    """Scores at the end."""
    attempts: Annotated[
        list[Attempt],
        Field(
            max_length=MAX_ATTEMPTS_RECORDED,
            json_schema_extra={**KeyedList, "x-kubernetes-list-map-keys": ["number"]},
        ),
    ] = []
    """The newest attempts, oldest first."""
    failures: Annotated[dict[str, Count], Field(max_length=16)] = {}
    """Failures so far by class."""
    goodput: Goodput | None = None
    """What the pods' time was spent on."""
    model: ModelStatus | None = None
    """Where the model is."""
