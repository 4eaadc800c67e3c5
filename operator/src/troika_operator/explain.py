"""Why an attempt's pods do not run yet, in words that stay the same while nothing changes."""

import re
from collections.abc import Sequence
from datetime import timedelta

from troika_api.v1alpha1.status import Phase

from .conditions import Situation
from .draft import Draft
from .resources.config import mounts
from .views import GroupView, JobView, PodView, Said

PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"})
SCHEDULER_ERROR = "SchedulerError"
NORMAL = frozenset({"ContainerCreating", "PodInitializing", ""})
SETTLES_IN = timedelta(seconds=2)
"""The scheduler looks at a gang as its pods appear, and says of the first that the others miss."""
_PREEMPTION = re.compile(r"\.? preemption: .*$", re.DOTALL)
"""What would follow if other pods went, which mostly is that it helps nobody."""
_BACK_OFF = re.compile(r'^Back-off pulling image "[^"]*": *(ErrImagePull: *)?')


def starting(
    draft: Draft, job: JobView, pods: Sequence[PodView], group: GroupView | None
) -> Situation:
    """What an attempt waits for."""
    lead = draft.lead
    phase = Phase.RESTARTING if lead else Phase.STARTING
    complete = len(pods) >= job.shape.nodes
    scheduled = complete and all(pod.scheduled for pod in pods)
    if job.suspended:
        queue = draft.job.spec.compute.queue
        where = f"in queue {queue}" if queue else "because its Job is suspended"
        return Situation(Phase.QUEUED, "Queued", f"waiting {where} for admission")
    if (stuck := _stuck(pods)) is not None:
        word, message = stuck.reason, stuck.message
    elif not complete and draft.observed.complaint is not None:
        word, message = "PodsRefused", draft.observed.complaint[:2000]
    elif not scheduled and (waits := unplaced(draft, pods, group)) is not None:
        word, said = waits.reason or "Unschedulable", waits.message
        message = _PREEMPTION.sub("", said).removesuffix(".") + _asked_for(draft, job, said)
        if word == SCHEDULER_ERROR:
            base = draft.status.base_model
            # The scheduler of 1.37 fails on a gang whose claim is missing, and hides which.
            claims = ", ".join(mounts(draft.job, base.uri if base else None))
            message = f"the scheduler failed ({said}); check that these claims exist: {claims}"
    else:
        word, message = "Starting", f"starting {job.shape.nodes} pod(s)"
    text = f"{lead}; {message}" if lead else message
    return Situation(phase, word, text, scheduled=scheduled)


def _stuck(pods: Sequence[PodView]) -> Said | None:
    """A container that cannot start."""
    for pod in pods:
        if pod.waiting and pod.waiting.reason not in NORMAL:
            reason, text = pod.waiting.reason, pod.waiting.message
            if reason in PULL:
                # Two reasons alternate while the kubelet retries; the text below does not.
                reason = reason if reason.startswith(("ErrImageN", "Inv")) else "ImagePullBackOff"
                text = _BACK_OFF.sub("", text)
            return Said(_word(reason), f"pod {pod.name} on node {pod.node}: {text}"[:2000])
    return None


def unplaced(draft: Draft, pods: Sequence[PodView], group: GroupView | None) -> Said | None:
    """What the scheduler says of pods without a node, unless it was said just now."""
    of_group = group.unschedulable if group else None
    found = next((pod.unschedulable for pod in pods if pod.unschedulable), of_group)
    if found is None or _passing(draft, found, pods):
        return None
    return Said(_word(found.reason), found.message[:2000], found.time)


def _asked_for(draft: Draft, job: JobView, said: str) -> str:
    """What a pod wants of a node, where nodes have too little: the scheduler tells neither."""
    if "Insufficient" not in said:
        return ""
    compute, gpus = draft.job.spec.compute, job.shape.gpus_per_node
    wanted = {**compute.resources.limits, **compute.resources.requests}
    if gpus:
        wanted = {compute.gpu_resource: str(gpus), **wanted}
    amounts = ", ".join(f"{name} {amount}" for name, amount in wanted.items())
    return f"; each of {job.shape.nodes} pod(s) asks for {amounts}"


def _passing(draft: Draft, said: Said, pods: Sequence[PodView]) -> bool:
    """Whether it was said just now, and may be over before anybody has read it.

    Its time is that of the first word: what is said of a pod that came later has the same.
    """
    if said.time is None:
        return False
    settled = max([said.time, *(pod.created for pod in pods)]) + SETTLES_IN
    if draft.now >= settled:
        return False
    draft.wake_at(settled)
    return True


def _word(reason: str) -> str:
    """A condition's reason has to be CamelCase; other controllers' mostly are."""
    cleaned = re.sub(r"[^A-Za-z0-9]", "", reason)
    return cleaned if cleaned[:1].isalpha() else "Unknown"
