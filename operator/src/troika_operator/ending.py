"""Decisions about a job that has ended well, or has ended and outlives its time."""

from datetime import timedelta

from troika_api.v1alpha1.base import duration_seconds
from troika_api.v1alpha1.status import Attempt, ModelStatus, Outcome, Phase

from . import report
from .conditions import Situation
from .draft import Draft, rank_zero
from .failures import last_word
from .plan import Plan, Ref
from .resources import names
from .views import PodView


def succeed(draft: Draft, attempt: Attempt, pods: tuple[PodView, ...]) -> Plan:
    """The attempt's Job is complete: keep what rank 0 said last."""
    word = last_word(rank_zero(pods))
    status = draft.status
    throughput = status.throughput
    draft.end(attempt, Outcome.SUCCEEDED)
    # The speed of the finished run is worth keeping; it is what the job is remembered by.
    said = word.status if word else None
    status.throughput = throughput
    if said is not None:
        report.merge(status, attempt, said)
        report.stop(status, keep_speed=True)
    if word is not None and word.evaluation is not None:
        status.evaluation = report.evaluation(word.evaluation)
    path = word.model_path if word else None
    uri = (report.place(path) if path else None) or draft.job.spec.output.uri
    status.model = ModelStatus(uri=uri)
    status.finished = draft.now
    draft.say(Situation(Phase.SUCCEEDED, "Completed", _summary(draft, uri, known=word is not None)))
    return look(draft)


def _summary(draft: Draft, uri: str, *, known: bool) -> str:
    status = draft.status
    if not known:
        return f"model in {uri}; the pod that could say more was gone"
    steps = f"{status.progress.step} steps" if status.progress else "done"
    assert status.started is not None
    assert status.finished is not None
    took = (status.finished - status.started).total_seconds() - (status.suspended_seconds or 0)
    return f"{steps} in {report.duration(took)}; model in {uri}"


def look(draft: Draft) -> Plan:
    """Nothing is left to do but to clean up in time."""
    ttl = draft.job.spec.policy.ttl_after_finished
    stale = draft.sweep()
    if ttl is None or draft.status.finished is None:
        return draft.plan(delete=stale)
    end = draft.status.finished + timedelta(seconds=duration_seconds(ttl))
    swept = {ref.uid for ref in stale}
    if draft.now < end and any(view.uid not in swept for view in draft.observed.jobs.values()):
        draft.wake_at(end)
        return draft.plan(delete=stale)
    return draft.plan(delete=_everything(draft) or stale)


def _everything(draft: Draft) -> list[Ref]:
    """All children, the Jobs last: that one is there is the sign that others may be, so who takes
    the last one away takes all. One that is deleted already is no sign: it may stay for long.
    """
    job = draft.job
    jobs = [view for _, view in sorted(draft.observed.jobs.items()) if not view.deleting]
    if not jobs:
        return []
    short, name = job.short_name, job.metadata.name
    prefix = names.run_config(short, name, "").rpartition("-")[0]
    hashes = sorted({view.run_hash for view in jobs if view.run_hash})
    return [
        Ref("Service", names.service(short, name)),
        *(Ref("ConfigMap", f"{prefix}-{run_hash}") for run_hash in hashes),
        *(
            Ref("PodGroup", group.name, group.uid)
            for _, group in sorted(draft.observed.groups.items())
            if not group.deleting
        ),
        *(Ref("Job", view.name, view.uid) for view in jobs),
    ]
