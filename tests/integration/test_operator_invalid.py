"""Mistakes that no schema can see, on a real API server: each ends as Valid=False with a reason.

All of them stand in one namespace with one operator, which goes on to run a job that is right.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest

from support.stage import Stage

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Invalid:
    """Changes to a good manifest, and how the sentence about them starts."""

    name: str
    message: str
    spec: dict[str, Any] = field(default_factory=dict)
    example: str = "pretrain-bert"

    @property
    def kind(self) -> str:
        """Of the example."""
        return "PretrainJob" if self.example.startswith("pretrain") else "FinetuneJob"


def compute(**changes: Any) -> dict[str, Any]:
    return {"compute": changes}


INVALID = [
    Invalid(
        "requests-above-limit",
        "spec.compute.resources.requests: cpu 2 is above its limit 500m",
        compute(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "500m"}}),
    ),
    Invalid(
        "gpu-among-limits",
        "spec.compute.resources.limits: nvidia.com/gpu is asked for by gpusPerNode",
        compute(resources={"limits": {"nvidia.com/gpu": "1"}}),
    ),
    Invalid(
        "reserved-label",
        "spec.compute.labels: app.kubernetes.io/name is reserved",
        compute(labels={"app.kubernetes.io/name": "x"}),
    ),
    Invalid(
        "reserved-annotation",
        "spec.compute.annotations: kubernetes.io/x is reserved",
        compute(annotations={"kubernetes.io/x": "y"}),
    ),
    Invalid(
        "label-of-the-queue",
        "spec.compute.labels: kueue.x-k8s.io/queue-name is set by the operator",
        compute(labels={"kueue.x-k8s.io/queue-name": "research"}),
    ),
    Invalid(
        "label-key",
        "spec.compute.labels: 'a b' is no valid key: expected NAME or DOMAIN/NAME",
        compute(labels={"a b": "x"}),
    ),
    Invalid(
        "label-value",
        "spec.compute.labels: team: 'not ok' is no valid value",
        compute(labels={"team": "not ok"}),
    ),
    Invalid(
        "node-selector-value",
        "spec.compute.nodeSelector: zone: 'not ok' is no valid value",
        compute(nodeSelector={"zone": "not ok"}),
    ),
    Invalid(
        "refers-to-itself",
        "spec.model.from: the job refers to itself: expected the name of another job",
        {"model": {"from": {"finetuneJob": "refers-to-itself"}}},
        example="finetune-sentiment",
    ),
]


async def test_each_mistake_is_said_and_none_stops_the_operator(there: Stage) -> None:
    with there.operator():
        for mistake in INVALID:
            await there.apply(mistake.example, mistake.name, **mistake.spec)
        for mistake in INVALID:
            status = await there.phase("Invalid", name=mistake.name, kind=mistake.kind)
            valid = next(c for c in status["conditions"] if c["type"] == "Valid")
            assert (valid["status"], valid["reason"]) == ("False", "InvalidSpec")
            assert valid["message"].startswith(mistake.message), mistake.name
            assert status["reason"] == valid["message"]
        assert await there.children() == []

        await there.apply(name="good")
        await there.attempt(0, name="good")
