"""Jobs and views of child objects for tests of decisions."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from troika_api.contract import LastWord
from troika_api.v1alpha1.compute import PullPolicy
from troika_api.v1alpha1.finetune import FinetuneJob
from troika_api.v1alpha1.pretrain import PretrainJob
from troika_operator.resources.attempt import Platform, Shape
from troika_operator.views import Exit, JobView, PodView, Said

EXAMPLES = Path(__file__).parents[2] / "examples"
START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
UID = "11111111-2222-3333-4444-555555555555"
PLATFORM = Platform(image="registry.example.com/troika-trainer:1", pull_policy=PullPolicy.ALWAYS)


def at(seconds: float) -> datetime:
    """A time after the start of the test."""
    return START + timedelta(seconds=seconds)


def manifest(name: str) -> dict[str, Any]:
    """An example, as the API server would send it."""
    body: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    body["metadata"] |= {
        "namespace": "team",
        "uid": UID,
        "generation": 1,
        "resourceVersion": "100",
        "creationTimestamp": "2026-11-24T12:00:00Z",
    }
    return body


def _with(body: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Changes are keyed by dotted paths; None removes."""
    for path, value in changes.items():
        *parents, last = path.split(".")
        inner = body
        for parent in parents:
            inner = inner.setdefault(parent, {})
        if value is None:
            inner.pop(last, None)
        else:
            inner[last] = value
    return body


def pretrain(**changes: Any) -> PretrainJob:
    """The small BERT of the examples; two nodes."""
    body = _with(manifest("pretrain-bert"), {k.replace("__", "."): v for k, v in changes.items()})
    return PretrainJob.model_validate(body)


def finetune(**changes: Any) -> FinetuneJob:
    """The sentiment classifier of the examples; two nodes, waits for bert-prose."""
    changed = {k.replace("__", "."): v for k, v in changes.items()}
    return FinetuneJob.model_validate(_with(manifest("finetune-sentiment"), changed))


def job_view(number: int = 0, **facts: Any) -> JobView:
    """The Job of an attempt with two nodes."""
    shape = facts.pop("shape", None) or Shape(number, nodes=2, processes_per_node=1)
    facts.setdefault("created", START)
    facts.setdefault("started", facts["created"])
    return JobView(
        name=f"bert-prose-ptj-a{number}",
        uid=f"job-{number}",
        version=1,
        owner_uid=UID,
        shape=shape,
        run_hash="0123456789",
        **facts,
    )


def pod_view(index: int = 0, number: int = 0, **facts: Any) -> PodView:
    """A pod that runs on node nINDEX, unless facts say otherwise."""
    state = {"phase": "Running", "running": True, "ready": True, "scheduled": True}
    if facts.get("exit"):
        state |= {"running": False, "ready": False}
        state["phase"] = "Failed" if facts["exit"].code else "Succeeded"
    known = {"node": f"n{index}", "ip": f"10.0.0.{index + 1}", "created": START, **state, **facts}
    return PodView(
        name=f"bert-prose-ptj-a{number}-{index}-xxxxx",
        uid=f"pod-{number}-{index}",
        version=1,
        attempt=number,
        index=index,
        job_uid=f"job-{number}",
        **known,
    )


def pending(index: int = 0, number: int = 0, **facts: Any) -> PodView:
    """A pod that is not placed yet."""
    nowhere = {"phase": "Pending", "running": False, "ready": False, "scheduled": False}
    return pod_view(index, number, **{**nowhere, "node": None, "ip": None, **facts})


def exited(
    code: int,
    when: float = 60,
    *,
    word: LastWord | None = None,
    message: str = "",
    reason: str = "",
) -> Exit:
    """A container that ended."""
    text = word.to_json() if word else message
    return Exit(code, reason or ("Completed" if code == 0 else "Error"), text, at(when))


def said(reason: str, message: str = "", when: float = 60) -> Said:
    """A condition of another controller."""
    return Said(reason, message, at(when))
