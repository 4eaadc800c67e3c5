"""Labels and owner of child objects."""

from typing import TypeAlias

from kubernetes.aio.client import V1ObjectMeta, V1OwnerReference

from troika_api.contract import FIELD_MANAGER, LABEL_ATTEMPT, LABEL_KIND, LABEL_NAME
from troika_api.v1alpha1.finetune import FinetuneJob
from troika_api.v1alpha1.pretrain import PretrainJob

from . import names

Job: TypeAlias = PretrainJob | FinetuneJob


def identity(job: Job) -> dict[str, str]:
    """Labels that select what belongs to the job."""
    return {LABEL_KIND: job.kind, LABEL_NAME: names.label_value(job.metadata.name)}


def labels(job: Job, attempt: int | None = None) -> dict[str, str]:
    """All labels of a child object."""
    known = {
        "app.kubernetes.io/name": "troika-trainer",
        "app.kubernetes.io/part-of": "troika",
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
        "app.kubernetes.io/instance": names.label_value(job.metadata.name),
        **identity(job),
    }
    return known if attempt is None else {**known, LABEL_ATTEMPT: str(attempt)}


def owner(job: Job) -> V1OwnerReference:
    """The garbage collector removes what refers to a job that is gone.

    Nothing blocks the job's deletion: foreground deletion would wait for pods of lost nodes.
    """
    return V1OwnerReference(
        api_version=job.api_version,
        kind=job.kind,
        name=job.metadata.name,
        uid=job.metadata.uid,
        controller=True,
        block_owner_deletion=False,
    )


def metadata(
    job: Job,
    name: str,
    *,
    attempt: int | None = None,
    annotations: dict[str, str] | None = None,
    extra_labels: dict[str, str] | None = None,
) -> V1ObjectMeta:
    """Metadata of a child object."""
    return V1ObjectMeta(
        name=name,
        namespace=job.metadata.namespace,
        labels={**labels(job, attempt), **(extra_labels or {})},
        annotations=annotations or None,
        owner_references=[owner(job)],
    )
