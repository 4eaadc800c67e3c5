"""What tells one attempt from another, and all objects that it consists of."""

import json
from dataclasses import asdict, dataclass

from troika_api.v1alpha1.compute import Compute, PullPolicy


@dataclass(frozen=True, slots=True)
class Shape:
    """Number and size of an attempt. Written on its Job, so that it can be read back from there."""

    number: int
    nodes: int
    processes_per_node: int
    gpus_per_node: int = 0
    micro_batch_divisor: int = 1

    @classmethod
    def wanted(cls, compute: Compute, *, number: int, micro_batch_divisor: int = 1) -> "Shape":
        """The shape that the spec asks for."""
        return cls(
            number=number,
            nodes=compute.nodes,
            processes_per_node=compute.num_processes_per_node,
            gpus_per_node=compute.gpus_per_node,
            micro_batch_divisor=micro_batch_divisor,
        )

    def to_annotation(self) -> str:
        """As text for an annotation."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_annotation(cls, text: str) -> "Shape":
        """The inverse of `to_annotation`."""
        known = json.loads(text)
        return cls(**{field: int(known[field]) for field in cls.__slots__ if field in known})


@dataclass(frozen=True, slots=True)
class Platform:
    """What the cluster and the operator's settings decide, for every job alike."""

    image: str
    pull_policy: PullPolicy
    run_as_user: int | None = 1000
    fs_group: int | None = 1000
    gangs: bool = False
    """The API serves PodGroups."""
