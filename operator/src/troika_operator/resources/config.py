"""run.json: the spec without its Kubernetes words, every URI one that the trainer can open."""

from typing import TypeVar

from kubernetes.aio.client import V1ConfigMap

from troika_api.contract import claims, local_path
from troika_api.v1alpha1.base import CamelModel
from troika_api.v1alpha1.pretrain import PretrainJob
from troika_api.v1alpha1.resource import ModelFrom
from troika_api.v1alpha1.run import FinetuneRun, PretrainRun, RunModel, RunTokenizer

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
    }
    path = local_path(base_model) if base_model else None
    remote_code = spec.model.trust_remote_code
    if isinstance(job, PretrainJob):
        config = job.spec.model.config
        tokenizer = job.spec.tokenizer
        load = tokenizer.from_.uri if tokenizer and tokenizer.from_ else None
        return PretrainRun(
            **shared,
            model=RunModel(config=config, path=path, trust_remote_code=remote_code),
            objective=job.spec.objective,
            tokenizer=RunTokenizer(
                train=tokenizer.train if tokenizer else None,
                path=local_path(load) if load else None,
            ),
            masking=job.spec.masking,
            data=job.spec.data.model_copy(
                update={
                    "train": _opened(job.spec.data.train),
                    "validation": _opened(job.spec.data.validation),
                }
            ),
            evaluation=job.spec.evaluation,
        )
    data = job.spec.data
    return FinetuneRun(
        **shared,
        model=RunModel(path=path, trust_remote_code=remote_code),
        task=job.spec.task,
        data=data.model_copy(
            update={
                "train": _opened(data.train),
                "validation": _opened(data.validation),
                "test": _opened(data.test) if data.test else None,
            }
        ),
        evaluation=job.spec.evaluation,
    )


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
    written = set(claims(job.spec.checkpoint.uri, job.spec.output.uri))
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
