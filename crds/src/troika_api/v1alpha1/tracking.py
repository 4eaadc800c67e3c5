"""Tracking: experiment trackers that get a run's numbers beside its status and event files."""

import re
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from .base import CamelModel, cel, validations

_SERVER = r"^https?://[^/@ ]+(/[^ ]*)?$"


def _a_server(uri: str) -> str:
    if not re.match(_SERVER, uri):
        raise ValueError(f"uri {uri.rpartition('@')[2]!r}: expected http(s)://HOST[:PORT][/PATH]")
    return uri


ServerURI = Annotated[
    str,
    Field(
        min_length=1,
        max_length=1024,
        json_schema_extra=validations(
            cel(
                f"self.matches('{_SERVER}')",
                "expected http(s)://HOST[:PORT][/PATH] without a password: keys belong in the "
                "Secret of tracking.secret",
            )
        ),
    ),
    AfterValidator(_a_server),
]


class MLflowTracking(CamelModel):
    """An MLflow tracking server."""

    uri: ServerURI
    """Address of the server, such as https://mlflow.example.com."""
    experiment: Annotated[str, Field(min_length=1, max_length=256)] = "troika"
    """Experiment that the run belongs to; made where there is none of this name."""


class WandbMode(StrEnum):
    """Where W&B's data goes."""

    ONLINE = "Online"
    OFFLINE = "Offline"


class WandbTracking(CamelModel):
    """A project of Weights & Biases."""

    project: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/\\#?%: ]+$")]
    """Name of the project."""
    entity: (
        Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^/\\#?%: ]+$")] | None
    ) = None
    """Team or user that owns it. Default: that of the key."""
    uri: ServerURI | None = None
    """Address of a server of one's own. Default: W&B's cloud."""
    mode: WandbMode = WandbMode.ONLINE
    """Offline writes files below checkpoint.uri, for `wandb sync`; it needs no key."""


class Tracking(CamelModel):
    """Trackers beside the TensorBoard event files, which every run writes. One that is down or
    refuses costs a warning in the log, never the training.
    """

    mlflow: MLflowTracking | None = None
    """MLflow."""
    wandb: WandbTracking | None = None
    """Weights & Biases."""
