"""Whether a failed attempt is followed by another, and when."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from troika_api.contract import NEVER_RETRIED, FailureClass
from troika_api.v1alpha1.base import duration_seconds
from troika_api.v1alpha1.policy import Retry
from troika_api.v1alpha1.status import Attempt, Outcome

FREE = frozenset({FailureClass.PREEMPTED, FailureClass.NODE_LOST})
"""Classes that cost nothing: what the cluster does to a job is not the job's fault."""
LONGEST = timedelta(minutes=10)


def budget(retry: Retry, kind: FailureClass) -> int | None:
    """New attempts allowed for the class over the job's life; None: any number."""
    if kind in FREE:
        return None
    match kind:
        case FailureClass.CRASH:
            return retry.crash
        case FailureClass.COMMUNICATION:
            return retry.communication
        case FailureClass.OUT_OF_MEMORY:
            return retry.out_of_memory
        case FailureClass.STORAGE:
            return retry.storage
        case FailureClass.HANG:
            return retry.hang
        case _:
            assert kind in NEVER_RETRIED | {FailureClass.STARTUP, FailureClass.DEADLINE}
            return 0


def allowed(retry: Retry, kind: FailureClass, failures: Mapping[str, int]) -> bool:
    """Whether the failure, already counted, may be followed by another attempt."""
    limit = budget(retry, kind)
    return limit is None or failures.get(kind, 0) <= limit


def backoff(retry: Retry, attempts: Sequence[Attempt], failures: Mapping[str, int]) -> timedelta:
    """How long to wait after the newest attempt.

    A failure that costs budget doubles the wait. One that is free costs no wait either, as long as
    attempts make steps: a job that is evicted again and again without one would otherwise go round
    as fast as pods can be made.
    """
    last = attempts[-1]
    if last.failure is None:
        return timedelta()
    if last.failure.class_ in FREE:
        doublings = _idle_attempts(attempts) - 1
    else:
        doublings = sum(count for kind, count in failures.items() if kind not in FREE)
    if doublings <= 0:
        return timedelta()
    base = min(timedelta(seconds=duration_seconds(retry.backoff)), LONGEST)
    return min(base * (1 << min(doublings - 1, 16)), LONGEST)


def _idle_attempts(attempts: Sequence[Attempt]) -> int:
    """Newest attempts in a row that were taken away before they made a step."""
    idle = 0
    for attempt in reversed(attempts):
        made_steps = attempt.first_step is not None
        taken = attempt.failure is not None and attempt.failure.class_ in FREE
        if made_steps or not taken or attempt.outcome is Outcome.SUSPENDED:
            break
        idle += 1
    return idle
