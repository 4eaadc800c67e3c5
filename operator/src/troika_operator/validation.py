"""Mistakes in a spec that no schema can see. Each is said with its path and what was expected."""

import re
from collections.abc import Iterator

from pydantic import ValidationError

from troika_api.contract import LABEL_QUEUE
from troika_api.v1alpha1.compute import Compute
from troika_api.v1alpha1.resource import ModelFrom
from troika_api.v1alpha1.training import Sharding

from .quantities import quantity
from .resources.config import model_from
from .resources.labels import Job

RESERVED_ENV = ("TROIKA_", "PET_")
RESERVED_DOMAINS = frozenset(
    {"troika.dev", "kubernetes.io", "k8s.io", "batch.kubernetes.io", "app.kubernetes.io"}
)
"""What the operator and the Job controller set. Other domains below kubernetes.io stay open: their
keys are made for pods, such as the cluster autoscaler's safe-to-evict."""
_KEY_NAME = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
_KEY_PREFIX = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_VALUE = re.compile(r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")
_CLAIM = _KEY_PREFIX


def problems(job: Job) -> list[str]:
    """Everything that is wrong, each as "path: what was expected"."""
    return [*_places(job), *_origin(job), *_shares(job), *_compute(job.spec.compute)]


def readable(error: ValidationError) -> str:
    """What a body that does not fit the API's models should have been."""
    lines = []
    for entry in error.errors(include_url=False, include_context=False)[:10]:
        path = ".".join(str(part) for part in entry["loc"]) or "object"
        text = entry["msg"].removeprefix("Value error, ")
        given = entry.get("input")
        shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) else ""
        lines.append(f"{path}: {text[:1].lower()}{text[1:]}{shown}")
    return "; ".join(lines)[:4000]


def _places(job: Job) -> Iterator[str]:
    spec = job.spec
    written = {"checkpoint.uri": spec.checkpoint.uri, "output.uri": spec.output.uri}
    if spec.data.cache:
        written["data.cache.uri"] = spec.data.cache.uri
    for path, uri in written.items():
        if not uri.startswith("pvc://"):
            yield f"spec.{path}: {uri} is no volume: expected pvc://CLAIM/PATH"
    if spec.checkpoint.uri.rstrip("/") == spec.output.uri.rstrip("/"):
        yield "spec.output.uri: expected another place than checkpoint.uri, whose files are pruned"
    data = spec.data
    test = getattr(data, "test", None)
    places = {
        "data.train.uri": data.train.uri,
        "data.validation.uri": data.validation.uri,
        "data.test.uri": test.uri if test else None,
        **written,
    }
    for path, place in places.items():
        if place and place.startswith("pvc://"):
            claim = place.removeprefix("pvc://").partition("/")[0]
            if not _CLAIM.match(claim):
                yield f"spec.{path}: {claim!r} is no name of a PersistentVolumeClaim"


def _origin(job: Job) -> Iterator[str]:
    given = model_from(job)
    if given is None:
        return
    kind, name = named_job(given)
    if kind == job.kind and name == job.metadata.name:
        yield "spec.model.from: the job refers to itself: expected the name of another job"


def named_job(given: ModelFrom) -> tuple[str, str] | tuple[None, None]:
    """Kind and name of the job that makes the model."""
    if given.pretrain_job:
        return "PretrainJob", given.pretrain_job
    if given.finetune_job:
        return "FinetuneJob", given.finetune_job
    return None, None


def _shares(job: Job) -> Iterator[str]:
    """The API server says so too, but not of what it had stored before it had that rule."""
    training, ranks = job.spec.training, job.spec.compute.world_size
    if training.sharding is not Sharding.NONE and training.global_batch_size % ranks:
        yield (
            f"spec.compute: {ranks} ranks do not divide training.globalBatchSize "
            f"{training.global_batch_size}: under {training.sharding} expected a number of nodes "
            "and processes that does"
        )


def _compute(compute: Compute) -> Iterator[str]:
    for variable in compute.env:
        if variable.name.startswith(RESERVED_ENV):
            yield (
                f"spec.compute.env: {variable.name} is set by the operator: "
                "expected a name that does not start with TROIKA_ or PET_"
            )
    for field, pairs in (
        ("labels", compute.labels),
        ("annotations", compute.annotations),
        ("nodeSelector", compute.node_selector),
    ):
        yield from _keys(f"spec.compute.{field}", pairs)
    if compute.gpus_per_node and compute.num_processes_per_node != compute.gpus_per_node:
        yield (
            f"spec.compute.processesPerNode: {compute.processes_per_node} for "
            f"{compute.gpus_per_node} GPUs: expected one for each, or the field to be left out"
        )
    resources = compute.resources
    for field, amounts in (("requests", resources.requests), ("limits", resources.limits)):
        if compute.gpu_resource in amounts:
            yield (
                f"spec.compute.resources.{field}: {compute.gpu_resource} is asked for by "
                "gpusPerNode: expected it to be left out here"
            )
    for name, requested in resources.requests.items():
        limit = resources.limits.get(name)
        if limit is not None and quantity(requested) > quantity(limit):
            yield (
                f"spec.compute.resources.requests: {name} {requested} is above its limit {limit}"
            )


def _keys(path: str, pairs: dict[str, str]) -> Iterator[str]:
    for key, value in pairs.items():
        prefix, _, name = key.rpartition("/")
        if not _KEY_NAME.match(name) or (prefix and not _KEY_PREFIX.match(prefix)):
            yield f"{path}: {key!r} is no valid key: expected NAME or DOMAIN/NAME"
        elif path.endswith("nodeSelector"):
            pass
        elif key == LABEL_QUEUE:
            yield f"{path}: {key} is set by the operator: expected compute.queue in its place"
        elif prefix in RESERVED_DOMAINS:
            yield f"{path}: {key} is reserved: expected a key of a domain of your own"
        if not path.endswith("annotations") and not _VALUE.match(value):
            yield f"{path}: {key}: {value!r} is no valid value: expected 63 of [A-Za-z0-9_.-]"
