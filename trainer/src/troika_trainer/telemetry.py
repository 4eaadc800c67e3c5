"""What the world sees of a run: status, metrics and log lines, all from the same numbers."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from troika_api import metrics
from troika_api.contract import Evaluation, LastWord, SavedCheckpoint, Stage, TrainerStatus

from .bar import Bar
from .errors import TerminatedError
from .place import Place
from .series import JobSeries
from .server import serve
from .tracking import Outcome, Tracking

if TYPE_CHECKING:
    from .curve import Point

log = logging.getLogger(__name__)

WINDOW = 50
"""Steps over which the rate is averaged: enough to be calm, few enough to notice a slow node."""

_PHASE_OF_STAGE = {
    Stage.LOADING: "loading",
    Stage.TOKENIZING: "data",
    Stage.EVALUATING: "evaluation",
    Stage.SAVING: "checkpoint",
    Stage.EXPORTING: "export",
}


@dataclass(frozen=True)
class StepReport:
    """One optimizer step, summed over all ranks; times in seconds."""

    step: int
    epoch: float
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    samples: int
    seconds: float
    data_seconds: float
    flops: float


class Telemetry:
    """The status of one process, and the metrics of the whole run on the first."""

    def __init__(self, *, kind: str, name: str, place: Place, bar: Bar | None = None) -> None:
        self.status = TrainerStatus(
            attempt=place.attempt, last_progress=time.time(), started_again=place.started_again
        )
        self._place = place
        self._bar = bar
        self._tracking = Tracking()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        # Series that describe the whole job come from one process, so that sums stay true.
        registry = self._registry if place.is_first else CollectorRegistry()
        self._series = JobSeries(registry, kind=kind, name=name)
        self._window: deque[StepReport] = deque(maxlen=WINDOW)
        self._peak_flops: float | None = None
        self._stage_since = time.monotonic()
        self._stages_seen = {self.status.stage}

    def serve(self) -> "Telemetry":
        """Answer `/metrics` and `/status`, on one process a pod."""
        if self._place.local_rank == 0:
            port = serve(self._registry, self.status.to_json)
            log.info("serving metrics and status", extra={"port": port})
        return self

    @contextlib.contextmanager
    def tracking(self, tracking: Tracking) -> Iterator[None]:
        """In here every number goes to these trackers too; however it ends, they are told."""
        self._tracking = tracking
        outcome = Outcome.FAILED
        try:
            yield
            outcome = Outcome.SUCCEEDED
        except (TerminatedError, KeyboardInterrupt):
            outcome = Outcome.TERMINATED
            raise
        finally:
            if self._bar:
                self._bar.stop()
            tracking.end(outcome)

    def stage(self, stage: Stage) -> None:
        """A new thing is being done."""
        now = time.monotonic()
        if phase := _PHASE_OF_STAGE.get(self.status.stage):
            self._series.phase(phase, now - self._stage_since)
        self._stage_since = now
        self.status.stage = stage
        if stage not in self._stages_seen:
            self._stages_seen.add(stage)
            log.info("stage", extra={"stage": stage.value, "step": self.status.step})
        self.alive()

    def alive(self) -> None:
        """A sign of progress: a step, a batch evaluated, a file read."""
        self.status.last_progress = time.time()
        self._series.set(metrics.TRAIN_LAST_PROGRESS, self.status.last_progress)

    def plan(self, *, total_steps: int, peak_flops: float | None) -> None:
        """How far the run goes, and how fast its devices could be (FLOP/s of all ranks)."""
        self.status.total_steps = total_steps
        self._peak_flops = peak_flops
        self._series.set(metrics.TRAIN_TARGET_STEPS, total_steps)
        if peak_flops:
            self._series.set(metrics.TRAIN_PEAK_FLOPS, peak_flops)

    def resumed(self, *, step: int, tokens: int) -> None:
        """The run goes on from a checkpoint (or from step 0)."""
        self.status.step = step
        self.status.tokens = tokens
        self._series.set(metrics.TRAIN_STEP, step)
        # What was told of the step of a checkpoint is true; of later ones it will be told again.
        self._tracking.begin(step + 1 if step else 0)
        if self._bar:
            self._bar.start(step=step, total=self.status.total_steps)

    def arrived(self) -> None:
        """The last step was made; early stopping makes it an earlier one than was planned."""
        if self.status.step != self.status.total_steps:
            log.info("stopped early", extra={"step": self.status.step})
        self.status.total_steps = self.status.step
        self.status.eta_seconds = 0.0
        if self._bar:
            self._bar.stop()
        self._series.set(metrics.TRAIN_TARGET_STEPS, self.status.step)

    def step(self, done: StepReport) -> None:
        """An optimizer step was made."""
        status, series = self.status, self._series
        if status.first_step is None:
            status.first_step = done.step
        status.step, status.epoch, status.loss = done.step, done.epoch, done.loss
        status.tokens += done.tokens
        status.training_seconds += done.seconds
        self._rates(done)
        series.add(metrics.TRAIN_TOKENS, done.tokens)
        series.add(metrics.TRAIN_SAMPLES, done.samples)
        series.add(metrics.TRAIN_STEPS, 1)
        series.add(metrics.TRAIN_FLOPS, done.flops)
        series.set(metrics.TRAIN_LOSS, done.loss)
        series.set(metrics.TRAIN_GRAD_NORM, done.gradient_norm)
        series.set(metrics.TRAIN_LEARNING_RATE, done.learning_rate)
        series.set(metrics.TRAIN_STEP, done.step)
        series.observe(metrics.TRAIN_STEP_SECONDS, done.seconds)
        series.phase("data", done.data_seconds)
        series.phase("step", done.seconds - done.data_seconds)
        if self._bar:
            self._bar.step(status)
        self.alive()

    def plotted(self, point: "Point") -> None:
        """A point of the curves was reached."""
        numbers = {
            "train/loss": point.loss,
            "train/learning_rate": point.learning_rate,
            "train/gradient_norm": point.gradient_norm,
            "train/tokens_per_second": point.tokens_per_second,
            "train/tokens": float(self.status.tokens),
        }
        if self.status.model_flops_utilization is not None:
            numbers["train/mfu"] = self.status.model_flops_utilization
        self._tracking.log(point.step, numbers)

    def log_step(self, done: StepReport) -> None:
        """Tell about a step; the loop decides how often."""
        fields = {
            "step": done.step,
            "total_steps": self.status.total_steps,
            "loss": round(done.loss, 5),
            "learning_rate": float(f"{done.learning_rate:.4g}"),
            "gradient_norm": round(done.gradient_norm, 4),
            "tokens_per_second": self.status.tokens_per_second,
            "mfu": self.status.model_flops_utilization,
            "eta_seconds": self.status.eta_seconds,
        }
        log.info("step", extra=fields)

    def validated(self, scores: dict[str, float]) -> None:
        """The model was measured on validation."""
        self.status.validation_loss = scores["loss"]
        self._series.set(metrics.TRAIN_VALIDATION_LOSS, scores["loss"])
        self._tracking.log(self.status.step, named("validation", scores))
        rounded = {name: round(value, 5) for name, value in scores.items()}
        log.info("validation", extra={"step": self.status.step, **rounded})

    def saved(self, checkpoint: SavedCheckpoint, *, blocked: float, written: float) -> None:
        """A checkpoint is complete; seconds for which the loop stood still, and of the writing."""
        self.status.checkpoint = checkpoint
        self._series.set(metrics.CHECKPOINT_LAST_SUCCESS, checkpoint.time)
        self._series.observe(metrics.CHECKPOINT_SECONDS, blocked)
        fields = {"blocked_seconds": round(blocked, 3), "seconds": round(written, 3)}
        log.info("checkpoint", extra={"step": checkpoint.step, **fields})
        self.alive()

    def tested(self, evaluation: Evaluation) -> None:
        """The exported model was measured."""
        if evaluation.split == "test":  # what was measured on validation is known
            self._tracking.log(self.status.step, named("test", evaluation.metrics))

    def leave_word(self, word: LastWord) -> None:
        """Hand the launcher what it writes as the pod's last word."""
        if self._place.word_file:
            with contextlib.suppress(OSError):  # success with fewer words is still success
                self._place.word_file.write_text(word.to_json())

    def _rates(self, done: StepReport) -> None:
        self._window.append(done)
        seconds = sum(entry.seconds for entry in self._window)
        rate = sum(entry.tokens for entry in self._window) / seconds
        waiting = sum(entry.data_seconds for entry in self._window)
        self.status.tokens_per_second = round(rate, 1)
        self.status.data_wait_ratio = round(waiting / seconds, 4)
        if self._peak_flops:
            flops = sum(entry.flops for entry in self._window) / seconds
            self.status.model_flops_utilization = round(flops / self._peak_flops, 4)
        if self.status.total_steps is not None:
            left = self.status.total_steps - done.step
            self.status.eta_seconds = round(left * seconds / len(self._window), 1)


def named(split: str, scores: dict[str, float]) -> dict[str, float]:
    """Scores as trackers call them, such as test/f1."""
    return {f"{split}/{name}": value for name, value in scores.items()}
