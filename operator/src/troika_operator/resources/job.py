"""The Indexed Job that is an attempt."""

from math import ceil

from kubernetes.aio.client import (
    V1Job,
    V1JobSpec,
    V1LocalObjectReference,
    V1ObjectMeta,
    V1PodSchedulingGroup,
    V1PodSpec,
    V1PodTemplateSpec,
)

from troika_api.contract import ANNOTATION_RUN_HASH, ANNOTATION_SHAPE, LABEL_QUEUE, PORT_METRICS
from troika_api.v1alpha1.base import duration_seconds

from . import names, pod
from .attempt import Platform, Shape
from .config import mounts
from .labels import Job, labels, metadata


def needs_gang(job: Job, shape: Shape, platform: Platform) -> bool:
    """Whether the attempt gets a PodGroup."""
    return platform.gangs and job.spec.compute.gang and shape.nodes > 1


def build_job(
    job: Job, shape: Shape, platform: Platform, *, config_name: str, base_model: str | None
) -> V1Job:
    """The attempt. It is created once and never written again: Kueue writes to it after us."""
    queue = job.spec.compute.queue
    run_hash = config_name.rpartition("-")[2]
    meta = metadata(
        job,
        names.attempt(job.short_name, job.metadata.name, shape.number),
        attempt=shape.number,
        annotations={ANNOTATION_RUN_HASH: run_hash, ANNOTATION_SHAPE: shape.to_annotation()},
        extra_labels={LABEL_QUEUE: queue} if queue else {},
    )
    return V1Job(
        api_version="batch/v1",
        kind="Job",
        metadata=meta,
        spec=V1JobSpec(
            completions=shape.nodes,
            parallelism=shape.nodes,
            completion_mode="Indexed",
            # One failed or deleted pod ends the attempt: its ranks cannot be replaced one by one.
            backoff_limit=0,
            # Counts a pod as failed when it is deleted, not when its node confirms that it is gone.
            pod_replacement_policy="TerminatingOrFailed",
            suspend=True if queue else None,
            template=template(job, shape, platform, config_name=config_name, base_model=base_model),
        ),
    )


def template(
    job: Job, shape: Shape, platform: Platform, *, config_name: str, base_model: str | None
) -> V1PodTemplateSpec:
    """The pods of an attempt."""
    compute = job.spec.compute
    claims = mounts(job, base_model)
    secrets = [V1LocalObjectReference(name=name) for name in compute.image_pull_secrets]
    return V1PodTemplateSpec(
        metadata=V1ObjectMeta(
            labels={**compute.labels, **labels(job, shape.number)},
            annotations={
                ANNOTATION_RUN_HASH: config_name.rpartition("-")[2],
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(PORT_METRICS),
                "prometheus.io/path": "/metrics",
                # Last: a user may scrape otherwise, and cannot set what is ours (`validation`).
                **compute.annotations,
            },
        ),
        spec=V1PodSpec(
            restart_policy="Never",
            subdomain=names.service(job.short_name, job.metadata.name),
            containers=[pod.container(job, shape, platform, claims)],
            volumes=pod.volumes(job, config_name, claims),
            security_context=pod.security(platform),
            automount_service_account_token=False,
            enable_service_links=False,
            service_account_name=compute.service_account_name,
            node_selector=dict(compute.node_selector) or None,
            tolerations=pod.tolerations(compute),
            priority_class_name=compute.priority_class_name,
            image_pull_secrets=secrets or None,
            scheduling_group=_group(job, shape, platform),
            termination_grace_period_seconds=ceil(
                duration_seconds(compute.termination_grace_period)
            ),
        ),
    )


def _group(job: Job, shape: Shape, platform: Platform) -> V1PodSchedulingGroup | None:
    if not needs_gang(job, shape, platform):
        return None
    name = names.attempt(job.short_name, job.metadata.name, shape.number)
    return V1PodSchedulingGroup(pod_group_name=name)
