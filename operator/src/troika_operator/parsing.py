"""From the API server's JSON to views."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from troika_api.contract import ANNOTATION_RUN_HASH, ANNOTATION_SHAPE, CONTAINER, LABEL_ATTEMPT

from .resources.attempt import Shape
from .views import Exit, GroupView, JobView, PodView, Said

Raw = Mapping[str, Any]
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"


def parse_time(text: str | None) -> datetime | None:
    """An RFC 3339 time as Kubernetes writes it."""
    return datetime.fromisoformat(text) if text else None


def version_of(raw: Raw) -> int:
    """Resource versions are numbers that grow (KEP-5504); anything else counts as the oldest."""
    text = str(raw["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0


def owner_uid(raw: Raw) -> str:
    """Uid of the controller."""
    owners = raw["metadata"].get("ownerReferences") or []
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def attempt_of(raw: Raw) -> int:
    """Number of the attempt that an object belongs to; -1 for none."""
    text = str((raw["metadata"].get("labels") or {}).get(LABEL_ATTEMPT, ""))
    return int(text) if text.isdigit() else -1


def _conditions(raw: Raw) -> dict[str, Raw]:
    return {c["type"]: c for c in (raw.get("status") or {}).get("conditions") or []}


def _said(condition: Raw | None, status: str) -> Said | None:
    if condition is None or condition.get("status") != status:
        return None
    return Said(
        reason=str(condition.get("reason") or ""),
        message=str(condition.get("message") or ""),
        time=parse_time(condition.get("lastTransitionTime")),
    )


def view_job(raw: Raw) -> JobView:
    """The facts of a batch/v1 Job."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    conditions = _conditions(raw)
    annotations = meta.get("annotations") or {}
    annotation = annotations.get(ANNOTATION_SHAPE)
    complete = _said(conditions.get("Complete"), "True")
    nodes = int(spec.get("parallelism") or 1)
    created = parse_time(meta.get("creationTimestamp"))
    assert created is not None
    return JobView(
        name=meta["name"],
        uid=meta["uid"],
        version=version_of(raw),
        owner_uid=owner_uid(raw),
        shape=Shape.from_annotation(annotation)
        if annotation
        else Shape(attempt_of(raw), nodes, processes_per_node=1),
        created=created,
        run_hash=str(annotations.get(ANNOTATION_RUN_HASH, "")),
        started=parse_time(status.get("startTime")),
        suspended=bool(spec.get("suspend")),
        complete=complete is not None,
        completed=complete.time if complete else None,
        failed=_said(conditions.get("FailureTarget"), "True")
        or _said(conditions.get("Failed"), "True"),
        deleting="deletionTimestamp" in meta,
    )


def view_group(raw: Raw) -> GroupView:
    """The facts of a PodGroup."""
    meta = raw["metadata"]
    return GroupView(
        name=meta["name"],
        uid=meta["uid"],
        version=version_of(raw),
        owner_uid=owner_uid(raw),
        attempt=attempt_of(raw),
        unschedulable=_said(_conditions(raw).get("PodGroupInitiallyScheduled"), "False"),
        deleting="deletionTimestamp" in meta,
    )


def view_pod(raw: Raw) -> PodView:
    """The facts of a pod."""
    meta, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    conditions = _conditions(raw)
    scheduled = conditions.get("PodScheduled")
    created = parse_time(meta.get("creationTimestamp"))
    assert created is not None
    gone_by = parse_time(meta.get("deletionTimestamp"))
    grace = timedelta(seconds=int(meta.get("deletionGracePeriodSeconds") or 0))
    phase = str(status.get("phase") or "Pending")
    state = _container_state(status)
    index = str((meta.get("annotations") or {}).get(COMPLETION_INDEX, ""))
    return PodView(
        name=meta["name"],
        uid=meta["uid"],
        version=version_of(raw),
        attempt=attempt_of(raw),
        index=int(index) if index.isdigit() else -1,
        created=created,
        job_uid=owner_uid(raw),
        phase=phase,
        node=spec.get("nodeName"),
        ip=status.get("podIP"),
        scheduled=bool(spec.get("nodeName")),
        running=phase == "Running" and "running" in state,
        ready=_said(conditions.get("Ready"), "True") is not None,
        unschedulable=_said(scheduled, "False"),
        waiting=_waiting(state),
        disrupted=_said(conditions.get("DisruptionTarget"), "True"),
        ended=Said(str(status["reason"]), str(status.get("message") or ""))
        if status.get("reason")
        else None,
        exit=_exit(state, created),
        deleted=gone_by - grace if gone_by else None,
        gone_by=gone_by,
    )


def _container_state(status: Raw) -> Raw:
    """State of the trainer's container.

    Of another that failed (an init container or an injected sidecar) if ours never came to run.
    """
    own: Raw = {}
    for container in status.get("containerStatuses") or []:
        if container.get("name") == CONTAINER:
            own = container.get("state") or {}
    if "running" in own or "terminated" in own:
        return own
    for container in [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]:
        state: Raw = container.get("state") or {}
        if (state.get("terminated") or {}).get("exitCode"):
            return state
    return own


def _waiting(state: Raw) -> Said | None:
    waiting = state.get("waiting")
    if not waiting:
        return None
    return Said(str(waiting.get("reason") or ""), str(waiting.get("message") or ""))


def _exit(state: Raw, created: datetime) -> Exit | None:
    ended = state.get("terminated")
    if not ended:
        return None
    return Exit(
        code=int(ended.get("exitCode") or 0),
        reason=str(ended.get("reason") or ""),
        message=str(ended.get("message") or ""),
        time=parse_time(ended.get("finishedAt")) or created,
    )
