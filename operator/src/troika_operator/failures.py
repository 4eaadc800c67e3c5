"""Why an attempt ended: from exit codes, last words and conditions of pods to one cause.

When one rank dies, the others follow: with a broken connection, with the Job controller's SIGTERM,
with deletion. So every sign gets a weight (a cause, a broken connection, an effect), the heaviest
count, and of those the earliest is the cause. While only light signs are there and pods still live,
the verdict waits a few seconds for a heavier one.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from pydantic import ValidationError

from troika_api.contract import CLASS_OF_EXIT_CODE, PVC_ROOT, ExitCode, FailureClass, LastWord
from troika_api.v1alpha1.status import Failure

from .remedies import remedy_for
from .views import Exit, JobView, PodView

SETTLE = timedelta(seconds=5)
KILLED = 128 + signal.SIGKILL
CANNOT_START = 128
LOST = frozenset({"DeletionByPodGC"})
TAINTED = "DeletionByTaintManager"
FORGOTTEN = frozenset({"ContainerStatusUnknown", "Unknown"})
"""What kubelet and containerd say of a container that they no longer find: its node was started
anew, or the pod was taken off it. Exit code and time are made up then."""


class Weight(IntEnum):
    """How much a sign says about the cause."""

    EFFECT = 0
    CONNECTION = 1
    CAUSE = 2


@dataclass(frozen=True, slots=True)
class Sign:
    """One thing that went wrong."""

    weight: Weight
    time: datetime
    failure: Failure


@dataclass(frozen=True, slots=True)
class Settling:
    """Something ended, but what is known so far may be an effect only."""

    until: datetime


def judge(job: JobView, pods: Sequence[PodView], now: datetime) -> Failure | Settling | None:
    """The cause, if the attempt has failed."""
    first_exit = min((pod.exit.time for pod in pods if pod.exit and pod.exit.code), default=None)
    given_up = job.failed.time if job.failed else None
    signs = [sign for pod in pods for sign in _signs(pod, first_exit, given_up)]
    if not signs:
        return _vanished(job, pods, now)
    cause = min(signs, key=lambda sign: (-sign.weight, sign.time))
    until = min(sign.time for sign in signs) + SETTLE
    alive = any(not pod.finished for pod in pods)
    if cause.weight < Weight.CAUSE and alive and now < until:
        return Settling(until)
    return cause.failure


def last_word(pod: PodView | None) -> LastWord | None:
    """The pod's termination message, if it is one of the contract's."""
    if pod is None or pod.exit is None or not pod.exit.message.lstrip().startswith("{"):
        return None
    try:
        return LastWord.model_validate_json(pod.exit.message)
    except ValidationError:
        return None


def _signs(pod: PodView, first_exit: datetime | None, given_up: datetime | None) -> list[Sign]:
    found = []
    if _was_done(pod):
        pass
    elif pod.disrupted:
        lost = pod.disrupted.reason in LOST or (
            # The taint manager evicts from dead nodes and on an administrator's wish. The node
            # controller takes readiness from the pods of a dead node; their state stays as it was.
            pod.disrupted.reason == TAINTED and pod.running and not pod.ready
        )
        kind = FailureClass.NODE_LOST if lost else FailureClass.PREEMPTED
        text = f"{pod.disrupted.reason}: {pod.disrupted.message}".removesuffix(": ")
        time = pod.disrupted.time or pod.created
        found.append(Sign(Weight.CAUSE, time, _failure(kind, text, pod)))
    elif pod.ended and pod.phase == "Failed":
        found.append(_ended(pod))
    elif pod.deleted:
        # Times are whole seconds. In doubt it was the Job controller, which deletes the rest of
        # an attempt that it has given up; the cause may be on its way to us.
        before = (first_exit is None or pod.deleted <= first_exit) and (
            given_up is None or pod.deleted < given_up
        )
        weight = Weight.CAUSE if before else Weight.EFFECT
        failure = _failure(FailureClass.PREEMPTED, "the pod was deleted", pod)
        found.append(Sign(weight, pod.deleted, failure))
    if pod.exit and (pod.exit.code or _contradicted(pod)):
        found.append(_exited(pod, pod.exit))
    if not found and pod.phase == "Failed":
        failure = _failure(FailureClass.CRASH, "the pod failed and did not say why", pod)
        found.append(Sign(Weight.CAUSE, pod.created, failure))
    return found


def _was_done(pod: PodView) -> bool:
    """It had exited with 0 before anybody wanted it gone: whoever deletes it then ends nothing."""
    taken = pod.disrupted.time if pod.disrupted else pod.deleted
    if taken is None or pod.exit is None or pod.phase != "Succeeded":
        return False
    return pod.exit.time < taken


def _contradicted(pod: PodView) -> bool:
    """Exit code 0, while the last word says otherwise."""
    word = last_word(pod)
    return word is not None and word.outcome == "Failed"


def _ended(pod: PodView) -> Sign:
    """The kubelet ended the pod or refused to start it (Evicted, OutOfcpu, NodeShutdown ...)."""
    assert pod.ended is not None
    kind = FailureClass.PREEMPTED
    if pod.ended.reason == "NodeLost":
        kind = FailureClass.NODE_LOST
    elif "exceed" in pod.ended.message or pod.ended.reason == "DeadlineExceeded":
        # Evicted for what it did itself ("usage exceeds the total limit", "exceeded its local
        # ephemeral storage limit"): coming back for free would go on for ever.
        kind = FailureClass.CRASH
    time = pod.exit.time if pod.exit else pod.created
    return Sign(Weight.CAUSE, time, _failure(kind, f"{pod.ended.reason}: {pod.ended.message}", pod))


def _exited(pod: PodView, end: Exit) -> Sign:
    word = last_word(pod)
    kind = CLASS_OF_EXIT_CODE.get(end.code, FailureClass.CRASH)
    if end.reason == "OOMKilled":
        kind = FailureClass.OUT_OF_MEMORY
    elif word and word.failure:
        kind = word.failure
    elif end.reason in FORGOTTEN:
        kind = FailureClass.NODE_LOST
    elif _no_program(end):
        kind = FailureClass.BAD_CONFIG
    weight = Weight.CAUSE
    if kind is FailureClass.COMMUNICATION:
        weight = Weight.CONNECTION
    elif end.code == ExitCode.TERMINATED or (word and word.outcome == "Terminated"):
        weight = Weight.EFFECT
    elif end.code == KILLED and end.reason != "OOMKilled" and pod.deleted:
        weight = Weight.EFFECT  # it did not stop within its grace period
    elif end.reason in FORGOTTEN and (pod.disrupted or pod.ended):
        weight = Weight.EFFECT
    time = datetime.fromtimestamp(word.time, UTC) if word and word.time else end.time
    return Sign(weight, time, _failure(kind, _what(end, word), pod, word))


def _no_program(end: Exit) -> bool:
    """The image lacks what it is told to run. Other errors at the start, such as those of a GPU's
    driver, are the node's: another one may do better.
    """
    refused = end.code == CANNOT_START or end.reason in ("StartError", "ContainerCannotRun")
    return refused and "exec: " in end.message


def _what(end: Exit, word: LastWord | None) -> str:
    if end.reason == "OOMKilled":
        return "the pod's memory limit was exceeded (OOMKilled)"
    if end.reason in FORGOTTEN:
        return f"the node does not know how the container ended ({end.reason})"
    if word and word.message:
        return word.message
    if word is None and end.message.strip():
        return f"exit code {end.code}: {end.message.strip()[:1000]}"
    if end.code > CANNOT_START:
        try:
            return f"killed by signal {end.code - 128} ({signal.Signals(end.code - 128).name})"
        except ValueError:
            pass
    return f"exit code {end.code}"


def _failure(kind: FailureClass, text: str, pod: PodView, word: LastWord | None = None) -> Failure:
    rank = word.rank if word else None
    text = named(text)
    where = f"pod {pod.name}" + (f" on node {pod.node}" if pod.node else "")
    who = f"rank {rank} in {where}" if rank is not None else where
    return Failure(
        class_=kind,
        message=f"{who}: {text}"[:4096],
        remedy=(word.remedy if word and word.remedy else None) or remedy_for(kind),
        node=pod.node,
        pod=pod.name,
        rank=rank,
        exit_code=pod.exit.code if pod.exit and pod.exit.code <= 255 else None,
    )


def named(text: str) -> str:
    """With volumes called as they are in the job, not by where a pod mounts them."""
    return text.replace(f"{PVC_ROOT}/", "pvc://")


def _vanished(job: JobView, pods: Sequence[PodView], now: datetime) -> Failure | Settling | None:
    """The Job controller counted a failure that no pod shows: the pod is gone, or news are late."""
    if job.failed is None:
        return None
    until = (job.failed.time or job.created) + SETTLE
    if now < until:
        return Settling(until)
    missing = sorted(set(range(job.shape.nodes)) - {pod.index for pod in pods})
    if not missing:
        text = f"the Job failed: {job.failed.reason}: {job.failed.message}"
        kind = FailureClass.CRASH
    else:
        which = ", ".join(str(index) for index in missing[:10])
        text = f"pods were removed before they said how they ended; indices: {which}"
        kind = FailureClass.PREEMPTED
    return Failure(class_=kind, message=text[:4096], remedy=remedy_for(kind))
