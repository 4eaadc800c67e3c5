"""From the trainer's words to the status: rounded to what a reader can use, so that noise in the
last digit is not a reason to write.
"""

from datetime import UTC, datetime

from troika_api.contract import Evaluation, Stage, TrainerStatus, storage_uri
from troika_api.v1alpha1.status import (
    Attempt,
    CheckpointStatus,
    ClassScore,
    EvaluationStatus,
    JobStatus,
    Progress,
    Throughput,
)

MAX_CLASSES = 100
MAX_METRICS = 32
MAX_URI = 1024
LOSS_DIGITS = 4
_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def percent(ratio: float) -> str:
    """0.4531 as 45.3%; full only when it is."""
    if ratio <= 0.0 or ratio >= 1.0:
        return f"{100 * ratio:.0f}%"
    return f"{min(100 * ratio, 99.9):.1f}%"


def duration(seconds: float) -> str:
    """The two largest units: 3d4h, 1h12m, 2m5s, 45s."""
    left = max(round(seconds), 0)
    for position, (unit, size) in enumerate(_UNITS):
        if left >= size or unit == "s":
            text = f"{left // size}{unit}"
            if position + 1 < len(_UNITS):
                smaller, part = _UNITS[position + 1]
                if rest := left % size // part:
                    text += f"{rest}{smaller}"
            return text
    raise AssertionError


def merge(status: JobStatus, attempt: Attempt, said: TrainerStatus) -> None:
    """Take over what the trainer of this attempt says."""
    if said.attempt != attempt.number:
        return
    status.progress = _progress(status.progress, said)
    if said.checkpoint is not None:
        status.checkpoint = CheckpointStatus(
            step=said.checkpoint.step,
            time=datetime.fromtimestamp(said.checkpoint.time, UTC).replace(microsecond=0),
            uri=place(said.checkpoint.path),
        )
    if said.first_step is not None:
        attempt.first_step = said.first_step
        attempt.last_step = max(said.step, attempt.last_step or 0)
    attempt.training_seconds = round(said.training_seconds)
    if said.tokens_per_second is not None:
        status.throughput = Throughput(
            tokens_per_second=max(round(said.tokens_per_second), 0),
            model_flops_utilization=_rounded(said.model_flops_utilization, 4),
            data_wait_ratio=_ratio(said.data_wait_ratio, 3),
        )


def place(path: str) -> str | None:
    """A path in the pod as a URI; None where it is longer than any of the spec."""
    uri = storage_uri(path)
    return uri if len(uri) <= MAX_URI else None


def _progress(before: Progress | None, said: TrainerStatus) -> Progress:
    if said.step == 0 and before is not None and before.step > 0:
        # It has not yet read the checkpoint that it goes on from.
        return before.model_copy(
            update={"stage": str(said.stage), "eta": None, "eta_seconds": None}
        )
    total = said.total_steps or (before.total_steps if before else None)
    ratio = min(said.step / total, 1.0) if total else None
    eta = round(said.eta_seconds) if said.eta_seconds is not None else None
    done = said.stage is Stage.DONE
    return Progress(
        step=said.step,
        total_steps=total,
        ratio=_rounded(ratio, 4),
        percent=percent(ratio) if ratio is not None else None,
        epoch=_rounded(said.epoch, 3),
        eta_seconds=None if done or eta is None else max(eta, 0),
        eta=None if done or eta is None else duration(eta),
        tokens=said.tokens,
        loss=_rounded(said.loss, LOSS_DIGITS),
        validation_loss=_rounded(said.validation_loss, LOSS_DIGITS),
        stage=str(said.stage),
    )


def evaluation(given: Evaluation) -> EvaluationStatus:
    """Scores of the model, the classes with the most rows first to stay."""
    kept = sorted(given.classes, key=lambda score: -score.support)[:MAX_CLASSES]
    return EvaluationStatus(
        split=given.split,
        metrics={
            name: round(value, LOSS_DIGITS)
            for name, value in list(given.metrics.items())[:MAX_METRICS]
        },
        classes=[
            ClassScore(
                name=score.name[:256],
                precision=round(score.precision, 4),
                recall=round(score.recall, 4),
                f1=round(score.f1, 4),
                support=score.support,
            )
            for score in given.classes
            if score in kept
        ],
        best_step=given.best_step,
    )


def fall_silent(status: JobStatus) -> None:
    """Rank 0 does not answer: how fast it is and when it will be done is not known."""
    status.throughput = None
    if status.progress is not None:
        status.progress.eta = None
        status.progress.eta_seconds = None


def stop(status: JobStatus, *, keep_speed: bool = False) -> None:
    """Nothing runs: no speed, no time to the end, no GPUs."""
    if not keep_speed:
        status.throughput = None
    status.gpus = 0
    if status.progress is not None:
        status.progress.eta = None
        status.progress.eta_seconds = None
        status.progress.stage = None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _ratio(value: float | None, digits: int) -> float | None:
    return None if value is None else round(min(max(value, 0.0), 1.0), digits)
