"""What both kinds of job share as Kubernetes resources: metadata, immutability, printer columns."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from .base import CamelModel, ModelURI, Name, cel, validations
from .compute import Compute
from .policy import Policy
from .status import JobStatus
from .tracking import Tracking
from .training import Checkpoint, Output, Training

GROUP = "troika.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


def immutable(*fields: str) -> list[dict[str, str]]:
    """CEL rules that refuse a change of these camelCase fields, also from set to unset and back."""
    return [
        cel(
            f"has(self.{field}) == has(oldSelf.{field}) && "
            f"(!has(self.{field}) || self.{field} == oldSelf.{field})",
            f"{field} cannot be changed once the job exists: create a new job instead",
            field=f".{field}",
        )
        for field in fields
    ]


class ModelFrom(CamelModel):
    """Weights to start from: a place, or another job, which is then waited for."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "(has(self.uri) ? 1 : 0) + (has(self.pretrainJob) ? 1 : 0) + "
                "(has(self.finetuneJob) ? 1 : 0) == 1",
                "set exactly one of uri, pretrainJob and finetuneJob",
            )
        )
    )
    uri: ModelURI | None = None
    """Model directory in save_pretrained layout, or hf://OWNER/NAME."""
    pretrain_job: Name | None = None
    """Name of a PretrainJob in the same namespace."""
    finetune_job: Name | None = None
    """Name of a FinetuneJob in the same namespace."""


class TrackingSecret(CamelModel):
    """A Secret with what opens the trackers."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret, in the job's namespace."""


class JobTracking(Tracking):
    """Experiment trackers, and the Secret that opens them."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("has(self.mlflow) || has(self.wandb)", "set mlflow, wandb or both")
        )
    )
    secret: TrackingSecret | None = None
    """Secret with what opens the trackers. Of its keys these become variables of the trainer pods,
    and no others: MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD;
    WANDB_API_KEY."""


RANKS = (
    "self.compute.nodes * "
    "(has(self.compute.processesPerNode) ? self.compute.processesPerNode : "
    "(self.compute.gpusPerNode > 0 ? self.compute.gpusPerNode : 1))"
)
"""`Compute.world_size` in CEL."""

SPEC_RULES = [
    cel(
        f"self.training.globalBatchSize >= {RANKS}",
        "globalBatchSize must be at least the number of ranks (nodes x processes per node)",
        field=".training.globalBatchSize",
    ),
    cel(
        "!has(self.training.sharding) || self.training.sharding == 'None' || "
        f"self.training.globalBatchSize % ({RANKS}) == 0",
        "with sharding, globalBatchSize must be a multiple of the number of ranks (nodes x "
        "processes per node), which do equally many passes: change the one or the other",
        field=".training.globalBatchSize",
    ),
    cel(
        "!has(self.training.precision) || self.training.precision != 'FP8' || "
        "(has(self.compute.gpusPerNode) && self.compute.gpusPerNode > 0)",
        "FP8 needs GPUs: set compute.gpusPerNode, or use BF16",
        field=".training.precision",
    ),
    cel(
        "!has(self.training.sharding) || self.training.sharding != 'HybridFSDP' || "
        "(has(self.compute.processesPerNode) ? self.compute.processesPerNode : "
        "self.compute.gpusPerNode) > 1",
        "HybridFSDP shards among the processes of a node, and there is one: use FSDP",
        field=".training.sharding",
    ),
    cel(
        "self.checkpoint.uri != self.output.uri",
        "output.uri must not be checkpoint.uri: the model needs a directory of its own",
        field=".output.uri",
    ),
    cel(
        "!has(self.data.cache) || self.data.cache.uri != self.output.uri",
        "data.cache.uri must not be output.uri, whose content a finished job replaces",
        field=".data.cache.uri",
    ),
]
"""Cross-field rules of both kinds; pydantic does not inherit schema extras, so specs name them."""


class JobSpec(CamelModel):
    """Fields that both kinds have."""

    training: Training
    """How to train."""
    compute: Compute = Compute()
    """Where to train."""
    checkpoint: Checkpoint
    """Where the state of the run is saved."""
    output: Output
    """Where the model goes."""
    tracking: JobTracking | None = None
    """Trackers that get the run's numbers beside TensorBoard's event files. A change counts from
    the next attempt on."""
    policy: Policy = Policy()
    """How the job lives. May be changed while it runs."""


class Metadata(BaseModel):
    """The part of metav1.ObjectMeta that we read; the rest is left alone."""

    model_config = ConfigDict(extra="ignore")
    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    resource_version: Annotated[str, Field(alias="resourceVersion")] = ""
    creation_timestamp: Annotated[str | None, Field(alias="creationTimestamp")] = None
    deletion_timestamp: Annotated[str | None, Field(alias="deletionTimestamp")] = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Resource(CamelModel):
    """A custom resource; subclasses say the names under which the API serves it."""

    plural: ClassVar[str]
    short_name: ClassVar[str]

    api_version: str = API_VERSION
    kind: str
    metadata: Metadata
    status: JobStatus = JobStatus()


def column(
    name: str, path: str, kind: str, description: str, *, wide: bool = False
) -> dict[str, Any]:
    """One entry of additionalPrinterColumns."""
    entry: dict[str, Any] = {
        "name": name,
        "jsonPath": path,
        "type": kind,
        "description": description,
    }
    return {**entry, "priority": 1} if wide else entry


PRINTER_COLUMNS = [
    column("Phase", ".status.phase", "string", "One word for where the job is"),
    column("Step", ".status.progress.step", "integer", "Optimizer steps done"),
    column("Progress", ".status.progress.percent", "string", "Share of the steps done"),
    column("Loss", ".status.progress.loss", "number", "Training loss over the last steps"),
    column("Tokens/s", ".status.throughput.tokensPerSecond", "integer", "Real tokens per second"),
    column("MFU", ".status.throughput.modelFlopsUtilization", "number", "Model FLOPs utilization"),
    column("GPUs", ".status.gpus", "integer", "GPUs held"),
    column("ETA", ".status.progress.eta", "string", "Time to the end"),
    column("Restarts", ".status.restarts", "integer", "Attempts that failures made necessary"),
    column("Age", ".metadata.creationTimestamp", "date", "Time since creation"),
    column("Reason", ".status.reason", "string", "Why it is in this phase", wide=True),
]
