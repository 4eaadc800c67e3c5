"""run.json: the spec without its Kubernetes words, every URI one that the trainer can open."""

from typing import TypeVar

from kubernetes.aio.client import V1ConfigMap

from troika_api.contract import claims, local_path
from troika_api.v1alpha1.base import CamelModel
from troika_api.v1alpha1.pretrain import PretrainJob
from troika_api.v1alpha1.resource import JobTracking, ModelFrom
from troika_api.v1alpha1.run import FinetuneRun, PretrainRun, RunModel, RunTokenizer
from troika_api.v1alpha1.tracking import Tracking

from . import names
from .labels import Job, metadata

T = TypeVar("T", bound=CamelModel)


def model_from(job: Job) -> ModelFrom | None:
    """Where the weights come from; None for a model from scratch."""
    return job.spec.model.from_


def build_run(job: Job, base_model: str | None) -> PretrainRun | FinetuneRun:
    """What to train; `base_model` is the URI of the weights to start from."""
    spec = job.spec
    shared = {
        "name": job.metadata.name,
        "training": spec.training,
        "checkpoint": _opened(spec.checkpoint),
        "output": _opened(spec.output),
        "tracking": _public(spec.tracking) if spec.tracking else None,
    }
    model = RunModel(
        path=local_path(base_model) if base_model else None,
        trust_remote_code=spec.model.trust_remote_code,
    )
    cache = spec.data.cache
    opened = {
        "train": _opened(spec.data.train),
        "validation": _opened(spec.data.validation),
        "cache": _opened(cache) if cache else None,
    }
    if isinstance(job, PretrainJob):
        return PretrainRun(
            **shared,
            model=model.model_copy(update={"config": job.spec.model.config}),
            objective=job.spec.objective,
            tokenizer=_tokenizer(job),
            masking=job.spec.masking,
            data=job.spec.data.model_copy(update=opened),
            evaluation=job.spec.evaluation,
        )
    test = job.spec.data.test
    return FinetuneRun(
        **shared,
        model=model,
        task=job.spec.task,
        method=job.spec.method,
        loss=job.spec.loss,
        data=job.spec.data.model_copy(update={**opened, "test": _opened(test) if test else None}),
        evaluation=job.spec.evaluation,
    )


def _public(given: JobTracking) -> Tracking:
    """What the trainer reads of it; the Secret is for the pod."""
    return Tracking(mlflow=given.mlflow, wandb=given.wandb)


def _tokenizer(job: PretrainJob) -> RunTokenizer:
    given = job.spec.tokenizer
    if given is None:
        return RunTokenizer()
    path = local_path(given.from_.uri) if given.from_ else None
    return RunTokenizer(train=given.train, path=path)


def _opened(source: T) -> T:
    """The same with its URI as a path that the trainer can open."""
    uri = getattr(source, "uri", None)
    return source.model_copy(update={"uri": local_path(uri)}) if uri else source


def input_uris(job: Job, base_model: str | None) -> list[str]:
    """URIs that the trainer only reads."""
    data = job.spec.data
    found = [data.train.uri, data.validation.uri, base_model]
    if isinstance(job, PretrainJob):
        tokenizer = job.spec.tokenizer
        found.append(tokenizer.from_.uri if tokenizer and tokenizer.from_ else None)
    else:
        found.append(job.spec.data.test.uri if job.spec.data.test else None)
    return [uri for uri in found if uri]


def mounts(job: Job, base_model: str | None) -> dict[str, bool]:
    """Claims to mount, by name, and whether the trainer only reads them."""
    spec = job.spec
    cache = [spec.data.cache.uri] if spec.data.cache else []
    written = set(claims(spec.checkpoint.uri, spec.output.uri, *cache))
    read = set(claims(*input_uris(job, base_model)))
    return {claim: claim not in written for claim in sorted(written | read)}


def build_config(job: Job, base_model: str | None) -> V1ConfigMap:
    """The ConfigMap with run.json, immutable: what an attempt reads does not change under it."""
    run = build_run(job, base_model)
    content = run.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"
    name = names.run_config(job.short_name, job.metadata.name, content)
    return V1ConfigMap(
        api_version="v1",
        kind="ConfigMap",
        metadata=metadata(job, name),
        immutable=True,
        data={"run.json": content},
    )
