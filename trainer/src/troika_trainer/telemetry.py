"""What the world sees of a run: status, metrics and log lines, all from the same numbers."""

import logging
import time
from collections import deque
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from troika_api import metrics
from troika_api.contract import LastWord, SavedCheckpoint, Stage, TrainerStatus

from .place import Place
from .server import serve

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

    def __init__(self, *, kind: str, name: str, place: Place) -> None:
        self.place = place
        self.status = TrainerStatus(attempt=place.attempt, last_progress=time.time())
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._labels = {"kind": kind, "name": name}
        # Series that describe the whole job come from one process, so that sums stay true.
        self._families = _families(self.registry if place.is_first else CollectorRegistry())
        self._window: deque[tuple[float, float, int]] = deque(maxlen=WINDOW)
        self._stage_since = time.monotonic()

    def serve(self) -> "Telemetry":
        """Answer `/metrics` and `/status`, on one process a pod."""
        if self.place.local_rank == 0:
            port = serve(self.registry, lambda: self.status.to_json())
            log.info("serving metrics and status", extra={"port": port})
        return self

    def stage(self, stage: Stage) -> None:
        """A new thing is being done."""
        now = time.monotonic()
        if phase := _PHASE_OF_STAGE.get(self.status.stage):
            self._phase(phase, now - self._stage_since)
        self._stage_since = now
        if stage is not self.status.stage:
            level = logging.DEBUG if self.status.stage is Stage.SAVING else logging.INFO
            log.log(level, "stage", extra={"stage": stage.value, "step": self.status.step})
        self.status.stage = stage
        self.alive()

    def alive(self) -> None:
        """A sign of progress: a step, a batch evaluated, a file read."""
        self.status.last_progress = time.time()
        self._gauge(metrics.TRAIN_LAST_PROGRESS, self.status.last_progress)

    def plan(self, *, total_steps: int, peak_flops: float | None) -> None:
        """How far the run goes, and how fast its devices could be (FLOP/s of all ranks)."""
        self.status.total_steps = total_steps
        self._gauge(metrics.TRAIN_TARGET_STEPS, total_steps)
        self._peak_flops = peak_flops
        if peak_flops:
            self._gauge(metrics.TRAIN_PEAK_FLOPS, peak_flops)

    def resumed(self, *, step: int, tokens: int) -> None:
        """The run goes on from a checkpoint (or from step 0)."""
        self.status.step = step
        self.status.tokens = tokens
        self._gauge(metrics.TRAIN_STEP, step)

    def step(self, done: StepReport) -> None:
        """An optimizer step was made."""
        status = self.status
        if status.first_step is None:
            status.first_step = done.step
        status.step, status.epoch, status.loss = done.step, done.epoch, done.loss
        status.tokens += done.tokens
        status.training_seconds += done.seconds
        self._window.append((done.seconds, done.data_seconds, done.tokens))
        self._rates(done)
        for family, amount in (
            (metrics.TRAIN_TOKENS, done.tokens),
            (metrics.TRAIN_SAMPLES, done.samples),
            (metrics.TRAIN_STEPS, 1),
            (metrics.TRAIN_FLOPS, done.flops),
        ):
            self._count(family, amount)
        for family, value in (
            (metrics.TRAIN_LOSS, done.loss),
            (metrics.TRAIN_GRAD_NORM, done.gradient_norm),
            (metrics.TRAIN_LEARNING_RATE, done.learning_rate),
            (metrics.TRAIN_STEP, done.step),
        ):
            self._gauge(family, value)
        self._observe(metrics.TRAIN_STEP_SECONDS, done.seconds)
        self._phase("data", done.data_seconds)
        self._phase("step", done.seconds - done.data_seconds)
        self.alive()

    def log_step(self, done: StepReport) -> None:
        """Tell about a step; the loop decides how often."""
        fields = {
            "step": done.step,
            "total_steps": self.status.total_steps,
            "loss": round(done.loss, 5),
            "learning_rate": done.learning_rate,
            "gradient_norm": round(done.gradient_norm, 4),
            "tokens_per_second": self.status.tokens_per_second,
            "mfu": self.status.model_flops_utilization,
            "eta_seconds": self.status.eta_seconds,
        }
        log.info("step", extra=fields)

    def validated(self, loss: float) -> None:
        """The validation loss is known."""
        self.status.validation_loss = loss
        self._gauge(metrics.TRAIN_VALIDATION_LOSS, loss)

    def saved(self, checkpoint: SavedCheckpoint, seconds: float) -> None:
        """A checkpoint is complete; it held the loop up for so long."""
        self.status.checkpoint = checkpoint
        self._gauge(metrics.CHECKPOINT_LAST_SUCCESS, checkpoint.time)
        self._observe(metrics.CHECKPOINT_SECONDS, seconds)
        self.alive()

    def leave_word(self, word: LastWord) -> None:
        """Hand the launcher what it writes as the pod's last word."""
        if self.place.word_file:
            self.place.word_file.write_text(word.to_json())

    def _rates(self, done: StepReport) -> None:
        seconds = sum(entry[0] for entry in self._window)
        waiting = sum(entry[1] for entry in self._window)
        rate = sum(entry[2] for entry in self._window) / seconds
        self.status.tokens_per_second = round(rate, 1)
        self.status.data_wait_ratio = round(waiting / seconds, 4)
        if self._peak_flops and done.flops:
            flops_per_token = done.flops / max(done.tokens, 1)
            self.status.model_flops_utilization = round(
                flops_per_token * rate / self._peak_flops, 4
            )
        if self.status.total_steps is not None:
            left = self.status.total_steps - done.step
            self.status.eta_seconds = round(left * seconds / len(self._window), 1)

    _peak_flops: float | None = None

    def _gauge(self, family: metrics.Metric, value: float) -> None:
        self._families[family.name].labels(**self._labels).set(value)

    def _count(self, family: metrics.Metric, amount: float) -> None:
        self._families[family.name].labels(**self._labels).inc(amount)

    def _observe(self, family: metrics.Metric, value: float) -> None:
        self._families[family.name].labels(**self._labels).observe(value)

    def _phase(self, phase: str, seconds: float) -> None:
        family = self._families[metrics.TRAIN_PHASE_SECONDS.name]
        family.labels(**self._labels, phase=phase).inc(max(0.0, seconds))


def _families(registry: CollectorRegistry) -> dict[str, Counter | Gauge | Histogram]:
    """Every trainer metric of the contract, registered, none with a value yet."""
    made: dict[str, Counter | Gauge | Histogram] = {}
    for family in metrics.TRAINER_METRICS:
        match family.type:
            case "counter":
                made[family.name] = Counter(
                    family.name, family.help, family.labels, registry=registry
                )
            case "gauge":
                made[family.name] = Gauge(
                    family.name, family.help, family.labels, registry=registry
                )
            case "histogram":
                made[family.name] = Histogram(
                    family.name,
                    family.help,
                    family.labels,
                    registry=registry,
                    buckets=family.buckets,
                )
    return made
