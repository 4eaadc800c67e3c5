"""What the pods' time was spent on, summed up as attempts end."""

from datetime import datetime

from troika_api.v1alpha1.status import Attempt, Goodput, JobStatus, Outcome


def account(status: JobStatus, attempt: Attempt, held_from: datetime | None) -> None:
    """Add an attempt that has ended. A queued one has held nothing."""
    assert attempt.ended is not None
    held = (attempt.ended - held_from).total_seconds() if held_from else 0.0
    held = max(held, 0.0)
    counted = min((attempt.training_seconds or 0) * kept_share(status, attempt), held)
    so_far = status.goodput or Goodput()
    pod_seconds = so_far.pod_seconds + round(held * attempt.nodes)
    counted_seconds = so_far.counted_pod_seconds + round(counted * attempt.nodes)
    gpus = attempt.nodes * attempt.gpus_per_node
    status.goodput = Goodput(
        ratio=round(min(counted_seconds / pod_seconds, 1.0), 3) if pod_seconds else None,
        pod_seconds=pod_seconds,
        counted_pod_seconds=counted_seconds,
        gpu_hours=round(so_far.gpu_hours + gpus * held / 3600, 3),
        wasted_gpu_hours=round(so_far.wasted_gpu_hours + gpus * (held - counted) / 3600, 3),
    )


def kept_share(status: JobStatus, attempt: Attempt) -> float:
    """Share of the attempt's steps that nobody has to make again."""
    if attempt.outcome is Outcome.SUCCEEDED:
        return 1.0
    if attempt.first_step is None or attempt.last_step is None or status.checkpoint is None:
        return 0.0
    made = attempt.last_step - attempt.first_step + 1
    kept = min(status.checkpoint.step, attempt.last_step) - attempt.first_step + 1
    return min(max(kept / made, 0.0), 1.0) if made > 0 else 0.0
