"""Terms: who owns a directory of checkpoints, in an order that jobs of every age agree on.

A job that is made anew with the same checkpoint.uri begins at attempt 0 again. So that it is not
fenced out of its own checkpoints, a term counts from the creation of the resource first.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from typing_extensions import override

NO_TIME = "00000000T000000Z"
BY_HAND = "hand"
UID_LENGTH = 8
_FORM = re.compile(r"(\d{8}T\d{6}Z)-([0-9a-z]+)-(\d{5,})")


@dataclass(frozen=True, order=True, slots=True)
class Term:
    """One attempt of one resource. The greater term is the later owner."""

    created: str
    """When the resource was made, in UTC: 20261124T120000Z."""
    uid: str
    """First characters of the resource's; it decides between two that were made in one second."""
    attempt: int

    @classmethod
    def of(cls, created: str | None, uid: str, attempt: int) -> "Term":
        """Of an attempt of a resource.

        Args:
            created: `metadata.creationTimestamp`, ISO 8601.
            uid: `metadata.uid`.
            attempt: Its number.
        """
        time = NO_TIME
        if created:
            time = f"{datetime.fromisoformat(created).astimezone(UTC):%Y%m%dT%H%M%SZ}"
        return cls(time, uid.replace("-", "")[:UID_LENGTH] or "0", attempt)

    @classmethod
    def by_hand(cls, attempt: int) -> "Term":
        """Of a run that no operator has started. It gives way to every job of an operator: whoever
        starts a run by hand can be told so, and a job at night cannot.
        """
        return cls(NO_TIME, BY_HAND, attempt)

    @classmethod
    def parse(cls, text: str) -> "Term":
        """The inverse of `str`.

        Raises:
            ValueError: it is no term.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no term: expected TIME-UID-ATTEMPT, like {_EXAMPLE}")
        return cls(found[1], found[2], int(found[3]))

    @override
    def __str__(self) -> str:
        """As a name of a file, in the same order as text."""
        return f"{self.created}-{self.uid}-{self.attempt:05}"

    @property
    def is_by_hand(self) -> bool:
        """Whether no operator has given it."""
        return self.uid == BY_HAND

    def same_resource(self, other: "Term") -> bool:
        """Whether both are attempts of one resource."""
        return (self.created, self.uid) == (other.created, other.uid)

    def owner(self) -> str:
        """The resource, for people."""
        if self.is_by_hand:
            return "the run that was started by hand"
        if self.created == NO_TIME:
            return f"the job with uid {self.uid}"
        day, time = self.created[:8], self.created[9:15]
        when = f"{day[:4]}-{day[4:6]}-{day[6:]} {time[:2]}:{time[2:4]}:{time[4:]}"
        return f"the job created at {when} UTC (uid {self.uid})"


_EXAMPLE = Term("20261124T120000Z", "1a2b3c4d", 0)
