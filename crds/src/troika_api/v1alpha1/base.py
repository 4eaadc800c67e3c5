"""Field types that every Troika resource shares."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

INT_OR_STRING = "x-kubernetes-int-or-string"
"""Marks the one union that Kubernetes knows."""

_PVC = "self.matches('^pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^ ]*)?$')"


def cel(rule: str, message: str, *, field: str | None = None, reason: str | None = None) -> Any:
    """One ``x-kubernetes-validations`` entry; `field` is relative to where the rule stands."""
    entry = {"rule": rule, "message": message}
    if field:
        entry["fieldPath"] = field
    if reason:
        entry["reason"] = reason
    return entry


def validations(*entries: dict[str, str], **extra: Any) -> dict[str, Any]:
    """Schema extras that carry CEL rules through pydantic's JSON Schema to the CRD."""
    return {"x-kubernetes-validations": list(entries), **extra}


def duration_seconds(text: str) -> float:
    """Seconds of a Kubernetes-style duration such as ``90s`` or ``1h30m``."""
    if not re.match(DURATION, text):
        raise ValueError(f"duration {text!r}: expected numbers with units, such as 90s or 1h30m")
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", text)
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


def _positive_duration(text: str) -> str:
    if duration_seconds(text) <= 0:
        raise ValueError(f"duration {text!r}: expected more than zero")
    return text


def _no_dot_dot(uri: str) -> str:
    if ".." in uri.split("/"):
        raise ValueError(f"URI {uri!r}: '..' is not allowed in a path")
    return uri


class CamelModel(BaseModel):
    """camelCase on the wire, snake_case in Python, nothing unknown, docstrings as descriptions."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        use_attribute_docstrings=True,
    )

    def wire(self) -> dict[str, Any]:
        """The JSON form: camelCase keys, nothing that is None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


Duration = Annotated[
    str,
    Field(
        max_length=32,
        json_schema_extra=validations(
            cel(
                f"self.matches('{DURATION.replace(chr(92), chr(92) * 2)}') "
                "&& duration(self) > duration('0s')",
                "expected a duration above zero, such as 90s or 1h30m",
            )
        ),
    ),
    AfterValidator(_positive_duration),
]
Quantity = Annotated[str, Field(pattern=_QUANTITY, max_length=32)]
Name = Annotated[str, Field(pattern=_NAME, max_length=253)]
"""Of an object of ours: the API server takes any DNS subdomain."""
LabelValue = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", max_length=63)
]
LabelKey = Annotated[str, Field(max_length=317, min_length=1)]


def _uri(rule: str, expected: str) -> Any:
    no_dots = cel("!self.matches('(^|/)[.][.](/|$)')", "'..' is not allowed in a path")
    return Field(
        max_length=1024,
        min_length=1,
        json_schema_extra=validations(cel(rule, expected), no_dots),
    )


StorageURI = Annotated[
    str,
    _uri(
        f"{_PVC} || self.matches('^(hf|s3|gs|abfs|https)://[^ ]+$') || self.matches('^/[^ ]*$')",
        "expected pvc://CLAIM/PATH, hf://datasets/OWNER/NAME/PATH, s3://BUCKET/PATH, "
        "gs://BUCKET/PATH, abfs://CONTAINER/PATH, https://HOST/PATH, "
        "or an absolute path inside the image",
    ),
    AfterValidator(_no_dot_dot),
]
"""Something to read."""

ModelURI = Annotated[
    str,
    _uri(
        f"{_PVC} || self.matches('^hf://[^/ ]+(/[^/ ]+)?$') || self.matches('^/[^ ]*$')",
        "expected pvc://CLAIM/PATH, hf://OWNER/NAME, or an absolute path inside the image: copy a "
        "model that lies in an object store to a volume, or mount the store as one",
    ),
    AfterValidator(_no_dot_dot),
]
"""A directory that `from_pretrained` opens: nothing fetches one from an object store."""

VolumeURI = Annotated[
    str,
    _uri(_PVC, "expected pvc://CLAIM/PATH: a volume that every node of the job can mount"),
    AfterValidator(_no_dot_dot),
]
"""Somewhere to write."""
