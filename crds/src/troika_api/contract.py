"""The contract between the operator and a trainer container.

A container that keeps it is a first-class trainer, whoever wrote it:

* it reads the run from `RUN_FILE` and learns its place in the gang from the environment;
* rank 0 answers `GET /status` with `TrainerStatus` and every pod `GET /metrics`, on `PORT_METRICS`;
* on SIGTERM it finishes the step, saves, and exits with `ExitCode.TERMINATED`;
* its last word is `LastWord`, as JSON in `TERMINATION_LOG`, under 4 KiB.
"""

from enum import IntEnum, StrEnum
from math import isfinite
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

# Keys on objects. Values are bounded: names, kinds and small numbers.
LABEL_NAME = "troika.dev/job-name"
LABEL_KIND = "troika.dev/job-kind"
LABEL_ATTEMPT = "troika.dev/attempt"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
ANNOTATION_RUN_HASH = "troika.dev/run-hash"
ANNOTATION_SHAPE = "troika.dev/shape"
FIELD_MANAGER = "troika-operator"

# Places inside the pod.
CONTAINER = "trainer"
RUN_DIR = "/etc/troika"
RUN_FILE = "/etc/troika/run.json"
PVC_ROOT = "/mnt/troika"
SCRATCH_DIR = "/tmp"  # noqa: S108  (an emptyDir of the pod's own)
TERMINATION_LOG = "/dev/termination-log"

PORT_METRICS = 9464
PORT_RENDEZVOUS = 29500

# Environment of the pod.
ENV_RUN_FILE = "TROIKA_RUN_FILE"
ENV_ATTEMPT = "TROIKA_ATTEMPT"
ENV_TERM = "TROIKA_TERM"
"""The attempt among those of all resources that ever had this checkpoint.uri (`term.py`): only the
greatest may write there."""
ENV_MICRO_BATCH_DIVISOR = "TROIKA_MICRO_BATCH_DIVISOR"
ENV_FAILURE_EVERY_SECONDS = "TROIKA_FAILURE_EVERY_SECONDS"
"""Mean time between failures of the whole gang, for `checkpoint.interval: Auto`."""
ENV_TERMINATION_LOG = "TROIKA_TERMINATION_LOG"
ENV_METRICS_PORT = "TROIKA_METRICS_PORT"
ENV_NNODES = "PET_NNODES"
ENV_NPROC_PER_NODE = "PET_NPROC_PER_NODE"
ENV_NODE_RANK = "PET_NODE_RANK"
ENV_RDZV_BACKEND = "PET_RDZV_BACKEND"
ENV_RDZV_ENDPOINT = "PET_RDZV_ENDPOINT"
ENV_RDZV_ID = "PET_RDZV_ID"

ENV_TRACKING = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "WANDB_API_KEY",
)
"""What opens the trackers, as their own clients call it: each one out of the key of its name in
the Secret of `tracking.secret`, where that has it."""

PRIOR_FAILURE_SECONDS = 8000 * 3600.0
"""Mean time between failures of one device where nothing is known: 7.9 h on 1,024 GPUs (Meta's
research cluster, arXiv:2410.21680) is one in 8,000 GPU hours."""


class ExitCode(IntEnum):
    """What a trainer container exits with. Anything else is a crash; 128 + n is signal n."""

    OK = 0
    BAD_CONFIG = 10
    BAD_DATA = 11
    NON_FINITE = 12
    OUT_OF_MEMORY = 13
    COMMUNICATION = 14
    STORAGE = 15
    TERMINATED = 143


class FailureClass(StrEnum):
    """Why an attempt ended; each class has its own retry budget."""

    BAD_CONFIG = "BadConfig"
    BAD_DATA = "BadData"
    NON_FINITE = "NonFinite"
    OUT_OF_MEMORY = "OutOfMemory"
    COMMUNICATION = "Communication"
    STORAGE = "Storage"
    CRASH = "Crash"
    HANG = "Hang"
    PREEMPTED = "Preempted"
    NODE_LOST = "NodeLost"
    STARTUP = "Startup"
    DEADLINE = "Deadline"


CLASS_OF_EXIT_CODE: dict[int, FailureClass] = {
    ExitCode.BAD_CONFIG: FailureClass.BAD_CONFIG,
    ExitCode.BAD_DATA: FailureClass.BAD_DATA,
    ExitCode.NON_FINITE: FailureClass.NON_FINITE,
    ExitCode.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
    ExitCode.COMMUNICATION: FailureClass.COMMUNICATION,
    ExitCode.STORAGE: FailureClass.STORAGE,
    ExitCode.TERMINATED: FailureClass.PREEMPTED,
}
NEVER_RETRIED = frozenset({FailureClass.BAD_CONFIG, FailureClass.BAD_DATA, FailureClass.NON_FINITE})
"""Classes that the same input meets again: neither torchrun nor the operator starts them anew."""


class Stage(StrEnum):
    """What a trainer is doing."""

    LOADING = "Loading"
    TOKENIZING = "Tokenizing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    SAVING = "Saving"
    EXPORTING = "Exporting"
    DONE = "Done"


class _Wire(BaseModel):
    """camelCase JSON; unknown fields are ignored, so that either side may be newer."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    def to_json(self) -> str:
        """The wire form, without what is None."""
        return self.model_dump_json(by_alias=True, exclude_none=True)


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


def _known_ones(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: score for name, score in value.items() if _known(score) is not None}


# What is not finite has no form in JSON, and what is out of bounds none in a job's status.
Whole = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Known = Annotated[float | None, BeforeValidator(_known)]
"""A number that is not finite counts as not known."""
KnownPositive = Annotated[Annotated[float, Field(ge=0.0)] | None, BeforeValidator(_known)]
KnownAmount = Annotated[Annotated[float, Field(le=1e15)] | None, BeforeValidator(_known)]
"""The status shows it without decimals."""
UnixSeconds = Annotated[float, Field(ge=0.0, lt=253402300800.0)]
"""Seconds, not milliseconds: before the year 10000."""


class Score(_Wire):
    """One line of a classification report."""

    name: str
    precision: Finite
    recall: Finite
    f1: Finite
    support: Whole


class Evaluation(_Wire):
    """Scores of the exported model."""

    split: Literal["validation", "test"]
    metrics: Annotated[dict[str, float], BeforeValidator(_known_ones)] = {}
    """Those that are not finite are left out."""
    classes: list[Score] = []
    best_step: Whole | None = None


class SavedCheckpoint(_Wire):
    """A complete checkpoint."""

    step: Whole
    time: UnixSeconds
    """Unix seconds of the commit."""
    path: str


class TrainerStatus(_Wire):
    """Body of `GET /status`, from rank 0."""

    attempt: int = 0
    stage: Stage = Stage.LOADING
    step: Whole = 0
    first_step: Whole | None = None
    """First step that this attempt made."""
    total_steps: Whole | None = None
    epoch: KnownPositive = None
    tokens: Whole = 0
    """Training tokens since step 0, padding not counted."""
    loss: Known = None
    validation_loss: Known = None
    tokens_per_second: KnownAmount = None
    model_flops_utilization: KnownPositive = None
    data_wait_ratio: Known = None
    eta_seconds: KnownAmount = None
    training_seconds: Annotated[float, Field(ge=0.0, le=1e12)] = 0.0
    """Time that this attempt spent in steps."""
    last_progress: Finite = 0.0
    """Unix seconds of the last sign of life: a step, an evaluated batch, a file, a checkpoint."""
    checkpoint: SavedCheckpoint | None = None
    started_again: Annotated[str, Field(max_length=300)] | None = None
    """Why the processes of this attempt were last started again in place."""


class LastWord(_Wire):
    """The termination message: how this pod's part of the attempt ended."""

    outcome: Literal["Succeeded", "Failed", "Terminated"]
    failure: FailureClass | None = None
    message: Annotated[str, Field(max_length=1500)] = ""
    remedy: Annotated[str, Field(max_length=500)] | None = None
    rank: Whole | None = None
    time: UnixSeconds = 0.0
    """Unix seconds; of several pods' words the earliest names the cause."""
    status: TrainerStatus | None = None
    evaluation: Evaluation | None = None
    model_path: str | None = None


MAX_TERMINATION_MESSAGE_BYTES = 4096


def mount_path(claim: str) -> str:
    """Where the volume of a PersistentVolumeClaim is mounted."""
    return f"{PVC_ROOT}/{claim}"


def local_path(uri: str) -> str:
    """What a trainer opens for a URI: pvc://CLAIM/PATH is a mounted path, the rest stays."""
    if not uri.startswith("pvc://"):
        return uri
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    return f"{mount_path(claim)}/{path}".rstrip("/")


def storage_uri(path: str) -> str:
    """The inverse of `local_path`."""
    if not path.startswith(PVC_ROOT + "/"):
        return path
    return "pvc://" + path.removeprefix(PVC_ROOT + "/")


def claims(*uris: str) -> list[str]:
    """Names of the claims that these URIs need mounted, sorted, each once."""
    return sorted(
        {uri.removeprefix("pvc://").partition("/")[0] for uri in uris if uri.startswith("pvc://")}
    )
