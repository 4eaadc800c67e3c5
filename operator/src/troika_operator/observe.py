"""From the store to what a decision is made from."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias, TypeVar

from troika_api.v1alpha1.finetune import FinetuneJob
from troika_api.v1alpha1.pretrain import PretrainJob
from troika_api.v1alpha1.status import JobStatus

from .plan import Memory, Observed, Report, Source
from .resources.config import model_from
from .resources.labels import Job
from .store import Children, Key, Store
from .validation import named_job
from .views import GroupView, JobView

MODELS: dict[str, type[PretrainJob] | type[FinetuneJob]] = {
    "PretrainJob": PretrainJob,
    "FinetuneJob": FinetuneJob,
}
V = TypeVar("V", JobView, GroupView)
Attempts: TypeAlias = dict[int, V]


def read(store: Store, key: Key) -> Job | None:
    """The job; raises pydantic's ValidationError if it is none of ours."""
    raw = store.jobs.get(key)
    return None if raw is None else MODELS[key.kind].model_validate(raw)


def source_key(job: Job) -> Key | None:
    """The job whose model this one starts from."""
    given = model_from(job)
    if given is None:
        return None
    kind, name = named_job(given)
    return Key(job.metadata.namespace, kind, name) if kind and name else None


def observe(
    store: Store,
    job: Job,
    base: Observed,
    *,
    report: Report | None = None,
    memory: Memory | None = None,
) -> Observed:
    """Everything about a job and around it; `base` holds what is the same for all jobs."""
    key = Key(job.metadata.namespace, job.kind, job.metadata.name)
    children = store.children.get(key.label(), Children())
    origin = source_key(job)
    return replace(
        base,
        jobs={v.shape.number: v for v in _own(children.jobs.values(), job) if v.shape.number >= 0},
        groups={v.attempt: v for v in _own(children.groups.values(), job)},
        pods=tuple(children.pods.values()),
        source=_source(store, origin) if origin else None,
        report=report,
        refusal=memory.refusal if memory else None,
        complaint=memory.complaint if memory else None,
    )


def _own(views: Iterable[V], job: Job) -> list[V]:
    """Without those of an earlier job of the same name, which the garbage collector will get."""
    return [view for view in views if view.owner_uid == job.metadata.uid]


def _source(store: Store, key: Key) -> Source:
    raw = store.jobs.get(key)
    if raw is None:
        return Source(key.kind, key.name)
    output = ((raw.get("spec") or {}).get("output") or {}).get("uri", "")
    status = JobStatus.model_validate(raw.get("status") or {})
    return Source(key.kind, key.name, exists=True, status=status, output_uri=output)
