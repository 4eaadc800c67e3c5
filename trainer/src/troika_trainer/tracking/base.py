"""What a tracker is: something that keeps numbers by step."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Protocol


class Outcome(StrEnum):
    """How the attempt ends."""

    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    TERMINATED = "Terminated"
    """Saved and left; a later attempt goes on."""


class Entry(NamedTuple):
    """Numbers of one step."""

    step: int
    time: float
    """Unix seconds."""
    numbers: dict[str, float]
    """By name, such as train/loss."""


class Tracker(Protocol):
    """Keeps numbers. Any method may raise anything: a courier stands between it and the run."""

    name: str
    """For people."""

    def open(self, step: int) -> None:
        """Get ready for numbers from this step on, also again after a failure.

        What an earlier attempt told of this step or later ones must not be there twice.
        """

    def log(self, entries: list[Entry]) -> None:
        """Keep these, oldest first."""

    def close(self, outcome: Outcome) -> None:
        """Nothing more will come."""


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested settings by dotted path."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
