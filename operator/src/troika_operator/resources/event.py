"""The one Event that is worth a write: a job has failed for good."""

from datetime import UTC, datetime
from typing import Any

from troika_api.contract import FIELD_MANAGER

from . import names
from .objects import Object


def build_warning(raw: dict[str, Any], reason: str, note: str) -> Object:
    """A Warning about a job, as plain JSON: its model would be imported for this alone."""
    meta = raw["metadata"]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "namespace": meta["namespace"],
            "name": f"{names.stem(meta['name'])}.{names.digest(meta['uid'] + reason, 16)}",
        },
        "eventTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        "type": "Warning",
        "reason": reason,
        "note": note[:1024],
        "action": "Fail",
        "reportingController": f"troika.dev/{FIELD_MANAGER}",
        "reportingInstance": FIELD_MANAGER,
        "regarding": {
            "apiVersion": raw["apiVersion"],
            "kind": raw["kind"],
            "namespace": meta["namespace"],
            "name": meta["name"],
            "uid": meta["uid"],
        },
    }
