"""Mistakes that only the operator can see, each with its path and what was expected."""

from typing import Any

import pytest
from pydantic import ValidationError

from support.views import START, finetune, manifest, pretrain
from troika_api.v1alpha1.pretrain import PretrainJob
from troika_api.v1alpha1.status import JobStatus, Phase
from troika_operator.decide import decide_unreadable
from troika_operator.quantities import quantity
from troika_operator.resources.labels import Job
from troika_operator.validation import problems, readable

WRONG: list[tuple[Job, str]] = [
    (
        pretrain(spec__compute__env=[{"name": "PET_NNODES", "value": "1"}]),
        "spec.compute.env: PET_NNODES is set by the operator",
    ),
    (
        pretrain(spec__compute__labels={"troika.dev/job-name": "x"}),
        "spec.compute.labels: troika.dev/job-name is reserved",
    ),
    (
        pretrain(spec__compute__annotations={"batch.kubernetes.io/x": "y"}),
        "spec.compute.annotations: batch.kubernetes.io/x is reserved",
    ),
    (
        pretrain(spec__compute__labels={"app.kubernetes.io/name": "x"}),
        "spec.compute.labels: app.kubernetes.io/name is reserved",
    ),
    (
        pretrain(spec__compute__labels={"kueue.x-k8s.io/queue-name": "research"}),
        "spec.compute.labels: kueue.x-k8s.io/queue-name is set by the operator: expected compute",
    ),
    (
        pretrain(spec__compute__labels={"a b": "x"}),
        "spec.compute.labels: 'a b' is no valid key: expected NAME or DOMAIN/NAME",
    ),
    (
        pretrain(spec__compute__nodeSelector={"zone": "not ok"}),
        "spec.compute.nodeSelector: zone: 'not ok' is no valid value",
    ),
    (
        pretrain(spec__compute__resources={"limits": {"nvidia.com/gpu": "8"}}),
        "spec.compute.resources.limits: nvidia.com/gpu is asked for by gpusPerNode",
    ),
    (
        pretrain(spec__compute__gpusPerNode=2, spec__compute__processesPerNode=4),
        "spec.compute.processesPerNode: 4 for 2 GPUs: expected one for each",
    ),
    (
        pretrain(spec__compute__gpusPerNode=2, spec__compute__processesPerNode=1),
        "spec.compute.processesPerNode: 1 for 2 GPUs: expected one for each",
    ),
    (
        pretrain(spec__compute__resources={"requests": {"cpu": "2"}, "limits": {"cpu": "500m"}}),
        "spec.compute.resources.requests: cpu 2 is above its limit 500m",
    ),
    (
        pretrain(spec__checkpoint={"uri": "https://example.com/x"}),
        "spec.checkpoint.uri: https://example.com/x is no volume: expected pvc://CLAIM/PATH",
    ),
    (
        pretrain(spec__data__cache={"uri": "/data/cache"}),
        "spec.data.cache.uri: /data/cache is no volume: expected pvc://CLAIM/PATH",
    ),
    (
        finetune(spec__data__cache={"uri": "pvc://Cache/x"}),
        "spec.data.cache.uri: 'Cache' is no name of a PersistentVolumeClaim",
    ),
    (
        pretrain(spec__output={"uri": "/data/out"}),
        "spec.output.uri: /data/out is no volume: expected pvc://CLAIM/PATH",
    ),
    (
        pretrain(spec__output={"uri": "pvc://models/checkpoints/bert-prose/"}),
        "spec.output.uri: expected another place than checkpoint.uri",
    ),
    (
        pretrain(spec__training__sharding="FSDP", spec__compute__nodes=3),
        "spec.compute: 3 ranks do not divide training.globalBatchSize 64: under FSDP expected",
    ),
    (
        finetune(spec__training__sharding="HybridFSDP", spec__compute__processesPerNode=3),
        "spec.compute: 6 ranks do not divide training.globalBatchSize 32: under HybridFSDP",
    ),
    (
        finetune(metadata__name="x", spec__model={"from": {"finetuneJob": "x"}}),
        "spec.model.from: the job refers to itself",
    ),
]


@pytest.mark.parametrize(("job", "expected"), WRONG, ids=[text[:50] for _, text in WRONG])
def test_a_mistake_is_named(job: Job, expected: str) -> None:
    found = problems(job)
    assert len(found) == 1
    assert found[0].startswith(expected)


@pytest.mark.parametrize("job", [pretrain(), finetune()])
def test_the_examples_are_right(job: Job) -> None:
    assert problems(job) == []


@pytest.mark.parametrize("compute", [{"gpusPerNode": 2, "processesPerNode": 2}, {}])
def test_a_process_for_each_gpu_is_right(compute: dict[str, Any]) -> None:
    assert problems(pretrain(spec__compute=compute)) == []


def test_annotations_for_other_programs_of_the_cluster_are_kept() -> None:
    wanted = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    assert problems(pretrain(spec__compute__annotations=wanted)) == []


def test_a_node_selector_may_use_the_clusters_own_keys() -> None:
    assert problems(pretrain(spec__compute__nodeSelector={"kubernetes.io/arch": "amd64"})) == []


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("training", {"steps": -1}, "spec.training.steps: input should be greater than"),
        ("objective", "Nope", "spec.objective: input should be 'MaskedLM'"),
        ("surprise", 1, "spec.surprise: extra inputs are not permitted (got 1)"),
        (
            "policy",
            {"deadline": "soon"},
            "spec.policy.deadline: duration 'soon': expected numbers with",
        ),
    ],
)
def test_a_body_that_got_past_the_schema_is_explained(path: str, value: Any, expected: str) -> None:
    body = manifest("pretrain-bert")
    body["spec"][path] = value
    with pytest.raises(ValidationError) as caught:
        PretrainJob.model_validate(body)
    assert readable(caught.value).startswith(expected)


def test_a_body_that_cannot_be_read_is_invalid_and_nothing_else() -> None:
    plan = decide_unreadable(JobStatus(), message="spec: no", generation=3, now=START)
    assert plan.status is not None
    assert plan.status.phase is Phase.INVALID
    assert plan.status.conditions[0].message == "spec: no"
    assert plan.start is None


@pytest.mark.parametrize(
    ("small", "large"), [("500m", "1"), ("1G", "1Gi"), ("1023Ki", "1Mi"), ("0.5", "501m")]
)
def test_quantities_compare(small: str, large: str) -> None:
    assert quantity(small) < quantity(large)
