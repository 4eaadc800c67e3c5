"""The gang: all pods of an attempt are placed, or none."""

from kubernetes.aio.client import (
    V1beta1DisruptionMode,
    V1beta1GangSchedulingPolicy,
    V1beta1PodGroup,
    V1beta1PodGroupSchedulingPolicy,
    V1beta1PodGroupSpec,
)

from . import names
from .attempt import Shape
from .labels import Job, metadata


def build_podgroup(job: Job, shape: Shape) -> V1beta1PodGroup:
    """One PodGroup per attempt. The Job controller makes none for a Job that has an owner."""
    return V1beta1PodGroup(
        api_version="scheduling.k8s.io/v1beta1",
        kind="PodGroup",
        metadata=metadata(
            job,
            names.attempt(job.short_name, job.metadata.name, shape.number),
            attempt=shape.number,
        ),
        spec=V1beta1PodGroupSpec(
            scheduling_policy=V1beta1PodGroupSchedulingPolicy(
                gang=V1beta1GangSchedulingPolicy(min_count=shape.nodes)
            ),
            # Ranks are of no use one by one, so preemption takes all of them.
            disruption_mode=V1beta1DisruptionMode(all={}),
            # The scheduler refuses pods whose priority differs from their group's.
            priority_class_name=job.spec.compute.priority_class_name,
        ),
    )
