"""Conditions: what holds of a job, for programs; transition times change with the status only."""

from dataclasses import dataclass
from datetime import datetime

from troika_api.v1alpha1.status import Condition, ConditionType, JobStatus, Phase

from .views import Said


@dataclass(frozen=True, slots=True)
class Situation:
    """What is to be said of a job at one moment; phase and conditions follow from it."""

    phase: Phase
    word: str
    """Reason in CamelCase."""
    message: str | None = None
    scheduled: bool = False
    running: bool = False
    stalled: Said | None = None
    invalid: str | None = None


def condition(status: JobStatus, kind: ConditionType) -> Condition | None:
    """The condition of that type."""
    return next((c for c in status.conditions if c.type == kind), None)


def holds(status: JobStatus, kind: ConditionType) -> bool:
    """Whether the condition is True."""
    found = condition(status, kind)
    return found is not None and found.status == "True"


def since(status: JobStatus, kind: ConditionType) -> datetime | None:
    """Since when the condition is True."""
    found = condition(status, kind)
    return found.last_transition_time if found and found.status == "True" else None


def describe(status: JobStatus, situation: Situation, *, now: datetime, generation: int) -> None:
    """Write phase, reason and all conditions into the status."""
    status.phase = situation.phase
    status.reason = situation.message
    status.observed_generation = generation
    known = {c.type: c for c in status.conditions}
    status.conditions = [
        _renewed(known.get(kind), kind, fact, now=now, generation=generation)
        for kind, fact in _facts(situation).items()
    ]


def _facts(situation: Situation) -> dict[ConditionType, tuple[bool, str, str]]:
    """Status, reason and message of every condition."""
    phase, word, message = situation.phase, situation.word, situation.message or ""
    otherwise = (False, str(phase), "")
    finished = phase in (Phase.SUCCEEDED, Phase.FAILED)
    stalled = situation.stalled
    return {
        ConditionType.VALID: (False, "InvalidSpec", situation.invalid)
        if situation.invalid
        else (True, "Accepted", ""),
        ConditionType.SCHEDULED: (True, "PodsScheduled", "")
        if situation.scheduled
        else ((False, str(phase), "") if finished else (False, word, message)),
        ConditionType.RUNNING: (True, "PodsRunning", "") if situation.running else otherwise,
        ConditionType.COMPLETE: (True, word, message) if phase is Phase.SUCCEEDED else otherwise,
        ConditionType.FAILED: (True, word, message) if phase is Phase.FAILED else otherwise,
        ConditionType.SUSPENDED: (True, word, message) if phase is Phase.SUSPENDED else otherwise,
        ConditionType.STALLED: (True, stalled.reason, stalled.message) if stalled else otherwise,
    }


def _renewed(
    known: Condition | None,
    kind: ConditionType,
    fact: tuple[bool, str, str],
    *,
    now: datetime,
    generation: int,
) -> Condition:
    holds_now, reason, message = fact
    status = "True" if holds_now else "False"
    unchanged = known is not None and known.status == status
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=known.last_transition_time if unchanged and known else now,
        observed_generation=generation,
    )
