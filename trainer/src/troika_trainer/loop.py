"""The step and the loop. Read it from top to bottom."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from troika_api.contract import Stage
from troika_api.v1alpha1.base import duration_seconds
from troika_api.v1alpha1.run import FinetuneRun
from troika_api.v1alpha1.training import Precision

from .batch import Batch, Examples
from .batches import Ahead, Batches, Order, micro_batch_size
from .checkpoint import Checkpoints, Progress
from .distributed import Group
from .errors import NonFiniteError, TerminatedError
from .evaluate import measure
from .flops import FlopCounter, flop_counter, peak_flops
from .optim import (
    FINETUNE_LEARNING_RATE,
    PRETRAIN_LEARNING_RATE,
    build_optimizer,
    gradient_norm,
    gradients,
    learning_rate,
    scale_and_clip,
    set_learning_rate,
)
from .randomness import draw
from .runfile import Run
from .shutdown import StopSignal
from .tasks.base import Measured, Objective
from .telemetry import StepReport, Telemetry

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOG_LINES = 5.0


@dataclass(frozen=True)
class Schedule:
    """When things happen, in steps: derived once from the run and the size of the data."""

    total: int
    evaluate_at: frozenset[int]
    save_every: int | None
    """Steps between two checkpoints, or None where a clock decides."""
    save_seconds: float

    @classmethod
    def of(cls, run: Run, order: Order, tokens_per_example: float) -> "Schedule":
        """How long the run is, and when it evaluates and saves."""
        length = run.training
        if length.steps is not None:
            total = length.steps
        elif length.tokens is not None:
            total = math.ceil(length.tokens / (order.batch * tokens_per_example))
        else:
            total = math.ceil((length.epochs or 1.0) * order.size / order.batch)
        if isinstance(run, FinetuneRun):
            epochs = range(1, math.ceil(order.epoch(total)) + 1)
            at = {min(order.last_step_of(epoch), total) for epoch in epochs}
        else:
            every = run.evaluation.every_steps or max(1, total // 10)
            at = {*range(0, total + 1, every), total}
        interval = run.checkpoint.interval
        steps = int(interval.removesuffix("steps")) if interval.endswith("steps") else None
        seconds = math.inf if steps else duration_seconds(interval)
        return cls(total, frozenset(at), steps, seconds)


class Trainer:
    """Model, optimizer, data and progress of one run on one rank."""

    def __init__(  # noqa: PLR0913 - the one place where everything meets
        self,
        run: Run,
        objective: Objective,
        *,
        train: Examples,
        validation: Examples,
        group: Group,
        checkpoints: Checkpoints,
        telemetry: Telemetry,
        stop: StopSignal,
        micro_batch_divisor: int,
    ) -> None:
        self.run, self.group, self.checkpoints = run, group, checkpoints
        self.telemetry, self.stop = telemetry, stop
        self.train_examples, self.validation = train, validation
        batch = run.training.global_batch_size
        self.order = Order(size=len(train), batch=batch, seed=run.training.seed)
        self.micro = micro_batch_size(
            wanted=run.training.micro_batch_size,
            batch=batch,
            ranks=group.size,
            divisor=micro_batch_divisor,
        )
        batches = Batches(train, self.order, place=group.place, micro=self.micro)
        self.batches = Ahead(batches)
        self.schedule = Schedule.of(run, self.order, _mean_length(train))
        self.objective = objective.to(group.device)
        objective.task.attach(objective.model)
        self.flops: FlopCounter = flop_counter(objective.model)
        self.optimizer = build_optimizer(objective.model, run.training.optimizer)
        self.module = _distributed(objective, group, first_batch=batches.step(1)[0])
        self.peak_rate = run.training.optimizer.learning_rate or (
            FINETUNE_LEARNING_RATE if isinstance(run, FinetuneRun) else PRETRAIN_LEARNING_RATE
        )
        self.progress = Progress()
        self._saved_step: int | None = None
        self._saved_at = time.monotonic()
        self._save_now = False
        self._stopping = False

    # ------------------------------------------------------------------------------- the loop

    def fit(self) -> Progress:
        """Train from the newest checkpoint to the last step.

        Raises:
            TerminatedError: a rank was asked to stop; the step it reached is saved.
            NonFiniteError: loss or gradient is no number; nothing of that step was applied.
        """
        self.resume()
        while True:
            step = self.progress.step

            # Once in a while: how good is it on data that it has not seen?
            if step in self.schedule.evaluate_at and self.progress.evaluated_step != step:
                self.evaluate()

            # Once in a while, at the end, and when asked to stop: save.
            if self.save_is_due():
                self.save()
            if self._stopping:
                raise TerminatedError(f"stopped at step {step}; saved")
            if step >= self.schedule.total:
                return self.progress

            # ---------------------------------------------------------------- one optimizer step
            self.telemetry.stage(Stage.TRAINING)
            started = time.monotonic()
            micro_batches = self.batches.step(step + 1)
            waited = time.monotonic() - started
            self.train_step(step + 1, micro_batches, started=started, waited=waited)

    def train_step(
        self, step: int, micro_batches: list[Batch], *, started: float, waited: float
    ) -> None:
        """Forward, backward, agree, update: one step over all ranks."""
        training = self.run.training
        # Dropout is a function of seed, step and rank: nothing to save, the same after a resume.
        torch.manual_seed(int(draw(training.seed, step, self.group.place.rank)) >> 1)

        # The loss is summed, never averaged over micro-batches or ranks of unequal size. It is
        # divided once, when the number of predictions of all ranks is known.
        losses = torch.zeros((), device=self.group.device)
        for batch, is_last in _with_last(micro_batches):
            with self.gradients_travel(is_last), self.autocast():
                loss, _ = self.module(batch.to(self.group.device))
            with self.gradients_travel(is_last):
                loss.backward()
            losses += loss.detach()

        # One small all-reduce carries everything that the ranks must agree on, and one read
        # brings it to the host.
        grads = gradients(self.objective)
        flags = [float(self.stop.requested), float(self.clock_says_save())]
        stats = torch.tensor([0.0, *_counts(micro_batches), *flags], dtype=torch.float64)
        stats = stats.to(self.group.device)
        stats[0] = losses
        self.group.sum(stats)
        loss_sum, weight, tokens, samples, pairs, stop, save, norm = torch.cat(
            [stats, gradient_norm(grads)[None].double()]
        ).tolist()

        # DDP has averaged the sums of the ranks: undo that, and divide by what was predicted.
        scale = self.group.size / max(weight, 1.0)
        loss_mean, norm = loss_sum / max(weight, 1.0), norm * scale
        if not (math.isfinite(loss_mean) and math.isfinite(norm)):
            raise self.non_finite(step, loss_mean, norm)
        rate = learning_rate(
            step, total=self.schedule.total, peak=self.peak_rate, schedule=training.schedule
        )
        scale_and_clip(grads, scale=scale, norm=norm, clip=training.optimizer.gradient_clip)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        self.progress.step = step
        self.progress.tokens += int(tokens)
        self._stopping, self._save_now = bool(stop), bool(save)
        self.tell(
            StepReport(
                step=step,
                epoch=round(self.order.epoch(step), 4),
                loss=loss_mean,
                learning_rate=rate,
                gradient_norm=norm,
                tokens=int(tokens),
                samples=int(samples),
                seconds=time.monotonic() - started,
                data_seconds=waited,
                flops=self.flops.count(tokens=tokens, heads=weight, pairs=pairs),
            )
        )

    # ---------------------------------------------------------------------------- its parts

    def resume(self) -> None:
        """Go on from the newest complete checkpoint, if there is one."""
        manifest = self.checkpoints.newest()
        if manifest is not None:
            self.checkpoints.load(manifest.progress.step, self.objective.model, self.optimizer)
            self.progress = manifest.progress
            self._saved_step = manifest.progress.step
            self.telemetry.status.checkpoint = self.checkpoints.described(manifest)
            log.info("resumed", extra={"step": self.progress.step, "attempt": manifest.attempt})
        peak = peak_flops(self.group.device)
        self.telemetry.plan(
            total_steps=self.schedule.total,
            peak_flops=peak * self.group.size if peak else None,
        )
        self.telemetry.resumed(step=self.progress.step, tokens=self.progress.tokens)

    def evaluate(self) -> None:
        """Measure on validation; note the score, and whether it is the best so far."""
        self.telemetry.stage(Stage.EVALUATING)
        limit = None if isinstance(self.run, FinetuneRun) else self.run.evaluation.max_sequences
        measured = self.measure(self.validation, limit=limit)
        if measured is None:
            self._stopping = True
            return
        scores = self.objective.task.metrics(measured, self.validation)
        step = self.progress.step
        self.progress.evaluated_step = step
        self.progress.history.append({"step": float(step), **scores})
        self.telemetry.validated(scores["loss"])
        log.info("validation", extra={"step": step, **{k: round(v, 5) for k, v in scores.items()}})
        if isinstance(self.run, FinetuneRun):
            chosen = self.run.evaluation.best_by
            score = -scores["loss"] if chosen == "loss" else scores[chosen]
            if self.progress.best_score is None or score > self.progress.best_score:
                self.progress.best_step, self.progress.best_score = step, score
                self._save_now = True

    def measure(self, examples: Examples, *, limit: int | None = None) -> Measured | None:
        """Loss and predictions on a split, or None where a rank was asked to stop."""

        def going_on() -> bool:
            self.telemetry.alive()
            return not self.stop.requested

        return measure(
            self.objective,
            examples,
            group=self.group,
            batch=self.micro,
            limit=limit,
            autocast=self.autocast,
            going_on=going_on,
        )

    def save(self) -> None:
        """Write a checkpoint of this step."""
        self.telemetry.stage(Stage.SAVING)
        started = time.monotonic()
        saved = self.checkpoints.save(self.objective.model, self.optimizer, self.progress)
        self._saved_step, self._save_now = self.progress.step, False
        self._saved_at = time.monotonic()
        self.telemetry.saved(saved, self._saved_at - started)

    def save_is_due(self) -> bool:
        """The same answer on every rank."""
        step = self.progress.step
        if step == self._saved_step:
            return False
        every = self.schedule.save_every
        return (
            self._stopping
            or self._save_now
            or step == self.schedule.total
            or (every is not None and step > 0 and step % every == 0)
        )

    def clock_says_save(self) -> bool:
        """The clock of the first rank decides for all."""
        return self.group.is_first and (
            time.monotonic() - self._saved_at > self.schedule.save_seconds
        )

    def autocast(self) -> Any:
        """bfloat16 for what tolerates it; the weights stay float32."""
        enabled = self.run.training.precision is Precision.BF16
        return torch.autocast(self.group.device.type, torch.bfloat16, enabled=enabled)

    @contextlib.contextmanager
    def gradients_travel(self, is_last: bool) -> Iterator[None]:  # noqa: FBT001
        """Only the last micro-batch of a step exchanges gradients between the ranks."""
        if isinstance(self.module, DistributedDataParallel) and not is_last:
            with self.module.no_sync():
                yield
        else:
            yield

    def non_finite(self, step: int, loss: float, norm: float) -> NonFiniteError:
        """What to say when the numbers have run away."""
        status = self.telemetry.status
        return NonFiniteError(
            f"step {step}: loss {loss}, gradient norm {norm}; "
            f"the last finite loss was {status.loss} at step {status.step}",
            "lower training.optimizer.learningRate, lengthen the warm-up, or use precision FP32",
        )

    def tell(self, done: StepReport) -> None:
        """Status and metrics after every step, a log line when there is something to see."""
        self.telemetry.step(done)
        now = time.monotonic()
        first = done.step == self.telemetry.status.first_step
        if (
            first
            or done.step == self.schedule.total
            or now - self._told_at > SECONDS_BETWEEN_LOG_LINES
        ):
            self.telemetry.log_step(done)
            self._told_at = now

    _told_at = 0.0


def _with_last(batches: list[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Each batch, and whether it is the last."""
    for number, batch in enumerate(batches, start=1):
        yield batch, number == len(batches)


def _counts(batches: list[Batch]) -> list[float]:
    """Predictions, tokens, samples and pairs of positions, summed."""
    return [
        float(sum(batch.weight for batch in batches)),
        float(sum(batch.tokens for batch in batches)),
        float(sum(batch.samples for batch in batches)),
        float(sum(batch.pairs for batch in batches)),
    ]


def _mean_length(examples: Examples) -> float:
    return float(examples.lengths(np.arange(len(examples))).mean())


def _distributed(objective: Objective, group: Group, *, first_batch: Batch) -> torch.nn.Module:
    """Exchange gradients between the ranks, where there is more than one."""
    objective.train()
    if group.size == 1:
        return objective
    loss, _ = objective(first_batch.to(group.device))
    loss.backward()
    unused = any(weight.requires_grad and weight.grad is None for weight in objective.parameters())
    objective.zero_grad(set_to_none=True)
    return DistributedDataParallel(
        objective,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=unused,
    )
