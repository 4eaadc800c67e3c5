"""Where to train: nodes, devices, queue and placement. No training word in it."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from .base import CamelModel, LabelKey, LabelValue, Quantity, cel, validations

ResourceList = Annotated[dict[LabelKey, Quantity], Field(max_length=16)]


class PullPolicy(StrEnum):
    """When a node pulls the image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class Resources(CamelModel):
    """What one pod asks for, as in a container; GPUs are asked for by gpusPerNode."""

    requests: ResourceList = {}
    """Guaranteed amounts per pod, for example `cpu: "8"` and `memory: 64Gi`."""
    limits: ResourceList = {}
    """Upper bounds per pod."""


class Toleration(CamelModel):
    """As in a pod."""

    key: Annotated[str, Field(max_length=317)] | None = None
    """Key of the taint; none matches every key."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How the value is compared."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; none matches every effect."""
    toleration_seconds: (
        Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] | None
    ) = None
    """How long a NoExecute taint is tolerated, in seconds."""


class EnvVar(CamelModel):
    """One environment variable of the trainer, given as text or taken from a Secret."""

    model_config = {
        "json_schema_extra": validations(
            cel("has(self.value) != has(self.secret)", "set exactly one of value and secret")
        )
    }
    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
    """Name of the variable."""
    value: Annotated[str, Field(max_length=4096)] | None = None
    """Its text."""
    secret: "SecretKey | None" = None
    """Key of a Secret in the job's namespace."""


class SecretKey(CamelModel):
    """One key of a Secret."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Key in it."""


class Compute(CamelModel):
    """Pods of the job. Changing nodes, gpusPerNode or processesPerNode ends the running attempt
    after a checkpoint and resumes with the new shape; other changes count from the next attempt on.
    """

    model_config = {
        "json_schema_extra": validations(
            cel(
                "!has(self.processesPerNode) || !has(self.gpusPerNode) || "
                "self.gpusPerNode == 0 || self.processesPerNode == self.gpusPerNode",
                "each GPU is used by one process: leave it out, or set it to gpusPerNode",
                field=".processesPerNode",
            )
        )
    }
    nodes: Annotated[int, Field(ge=1, le=4096)] = 1
    """Number of pods, one per node."""
    gpus_per_node: Annotated[int, Field(ge=0, le=64)] = 0
    """GPUs of each pod; 0 trains on the CPU."""
    gpu_resource: LabelKey = "nvidia.com/gpu"
    """Extended resource that stands for a GPU."""
    processes_per_node: Annotated[int, Field(ge=1, le=256)] | None = None
    """Trainer processes of each pod. Default: one per GPU, or one on the CPU. With GPUs it can be
    no other number: a process uses one GPU, and a GPU serves one process."""
    resources: Resources = Resources()
    """CPU and memory of each pod."""
    shared_memory: Quantity = "2Gi"
    """Size limit of /dev/shm, which NCCL and the data loader need."""
    queue: LabelValue | None = None
    """Kueue LocalQueue that admits the job."""
    gang: bool = True
    """Start all pods or none, where the cluster serves PodGroups."""
    priority_class_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """Priority class of the pods."""
    node_selector: Annotated[
        dict[LabelKey, Annotated[str, Field(max_length=63)]], Field(max_length=32)
    ] = {}
    """Labels that a node must have."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = []
    """Taints that the pods tolerate."""
    image: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Trainer image. Default: the one that the operator was installed with."""
    image_pull_policy: PullPolicy | None = None
    """When nodes pull the image. Default: the operator's setting."""
    image_pull_secrets: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=253)]], Field(max_length=8)
    ] = []
    """Names of Secrets that open the registry."""
    service_account_name: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """ServiceAccount of the pods; its token is never mounted. Default: the namespace's default."""
    env: Annotated[
        list[EnvVar],
        Field(
            max_length=64,
            json_schema_extra=validations(
                cel(
                    "self.all(e, !e.name.startsWith('TROIKA_') && !e.name.startsWith('PET_'))",
                    "names that start with TROIKA_ or PET_ are set by the operator",
                ),
                **{"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
            ),
        ),
    ] = []
    """Environment variables of the trainer. Names that start with TROIKA_ or PET_ are taken."""
    labels: Annotated[
        dict[LabelKey, Annotated[str, Field(max_length=63)]],
        Field(
            max_length=32,
            json_schema_extra=validations(
                cel(
                    "self.all(k, !k.startsWith('troika.dev/') && "
                    "!k.startsWith('batch.kubernetes.io/'))",
                    "keys under troika.dev/ and batch.kubernetes.io/ are set by the operator",
                )
            ),
        ),
    ] = {}
    """Further labels of the pods."""
    annotations: Annotated[
        dict[LabelKey, Annotated[str, Field(max_length=4096)]], Field(max_length=32)
    ] = {}
    """Further annotations of the pods."""
    termination_grace_period: Annotated[str, Field(pattern=r"^([0-9]+(s|m))+$", max_length=16)] = (
        "2m"
    )
    """Time to finish the step and save after SIGTERM, before the pods are killed."""

    @property
    def num_processes_per_node(self) -> int:
        """Trainer processes of each pod, the default worked out."""
        return self.processes_per_node or max(self.gpus_per_node, 1)

    @property
    def world_size(self) -> int:
        """Ranks of the whole job."""
        return self.nodes * self.num_processes_per_node
