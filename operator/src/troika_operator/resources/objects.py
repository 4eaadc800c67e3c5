"""All objects of an attempt, in the form that goes over the wire."""

from dataclasses import dataclass
from typing import Any

from .attempt import Platform, Shape
from .config import build_config
from .job import build_job, needs_gang
from .labels import Job
from .podgroup import build_podgroup
from .service import build_service

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AttemptObjects:
    """`shared` may be written in any order and again; `job` comes last and once."""

    shared: tuple[Object, ...]
    job: Object


def attempt_objects(
    job: Job, shape: Shape, platform: Platform, base_model: str | None
) -> AttemptObjects:
    """What has to exist for the attempt to run."""
    config = build_config(job, base_model)
    assert config.metadata is not None
    assert config.metadata.name is not None
    shared: list[Any] = [config, build_service(job)]
    if needs_gang(job, shape, platform):
        shared.append(build_podgroup(job, shape))
    attempt = build_job(
        job, shape, platform, config_name=config.metadata.name, base_model=base_model
    )
    return AttemptObjects(tuple(_wire(part) for part in shared), _wire(attempt))


def _wire(part: Any) -> Object:
    wire: Object = part.model_dump(mode="json", by_alias=True, exclude_none=True)
    return wire
