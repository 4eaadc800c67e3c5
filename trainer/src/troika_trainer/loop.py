"""The step and the loop. Read it from top to bottom.

Longer than other files, so that nobody who follows a step has to leave it.
"""

import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from troika_api.contract import Stage
from troika_api.v1alpha1.run import FinetuneRun
from troika_api.v1alpha1.training import (
    Compile,
    FinetuneEvaluation,
    Precision,
)

from . import nonfinite, optim
from .batch import Batch, Examples, Integers
from .batches import Order, StreamOrder, micro_batch_size
from .checkpoint import Checkpoints
from .curve import Meter
from .cutting import Cutting
from .distributed import Group
from .errors import DataError, TerminatedError, is_out_of_memory
from .evaluate import Evaluator
from .float8 import use_float8
from .flops import peak_flops
from .frozen import cast_frozen
from .garbage import collected_on_schedule
from .interval import Interval
from .manifest import Progress
from .microbatch import Kept
from .parallel import spread
from .randomness import draw
from .schedule import Schedule
from .shutdown import StopSignal
from .stream import Stream
from .tasks.base import Numbers, Objective
from .telemetry import StepReport, Telemetry

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOG_LINES = 5.0


class Trainer:
    """Model, optimizer, data and progress of one run on one rank."""

    def __init__(  # noqa: PLR0913 - the one place where everything meets
        self,
        objective: Objective,
        *,
        train: Examples,
        validation: Examples,
        stream: Stream | None,
        group: Group,
        checkpoints: Checkpoints,
        telemetry: Telemetry,
        stop: StopSignal,
    ) -> None:
        run = objective.task.run
        self.run, self.group, self.checkpoints = run, group, checkpoints
        self.telemetry, self.stop, self.validation = telemetry, stop, validation
        self.objective = objective
        objective.task.attach(objective.model)
        self.stream, training = stream, run.training
        if training.precision is Precision.FP8:  # after `attach`, whose trials its rounding hides
            use_float8(objective.model)
            training = training.model_copy(update={"compile": Compile.ALWAYS})
        self.order = (
            Order.of(training, train, grouped=objective.task.one_prediction_each)
            if stream is None
            else StreamOrder(stream.window, training.global_batch_size, training.seed)
        )
        lengths = _lengths(train)
        longest = int(lengths.max())
        self.schedule = Schedule.of(run, self.order, tokens_per_example=float(lengths.mean()))

        kept = Kept.of(checkpoints.directory / "cache", group, training)
        known, on_cpu = group.from_first(kept.read), group.device.type == "cpu"
        micro = micro_batch_size(training, group.place, longest=longest, on_cpu=on_cpu)
        micro = min(micro, known or micro)
        if training.precision is not Precision.FP32:
            cast_frozen(objective.model, torch.bfloat16)
        trial = _some(train, at_most=min(2, micro))
        with self.autocast():
            self.strategy = spread(objective, group, training, trial=trial)
        self.optimizer = optim.build_optimizer(objective.model, run.training.optimizer)
        self.cutting = Cutting(
            training,
            train,
            self.order,
            strategy=self.strategy,
            arithmetic=self.autocast,
            kept=kept,
            micro=micro,
            known=known is not None,
            longest=longest,
            steps=self.schedule.total,
        )
        self.evaluator = Evaluator(
            objective,
            group,
            self.cutting.micro,
            longest,
            self.autocast,
            self.going_on,
            together=kept if self.strategy.runs_together else None,
        )
        self.flops = objective.task.flop_counter(objective.model)

        self.interval = Interval.of(run.checkpoint.interval, os.environ)
        self.progress = Progress()
        self.meter = Meter(self.schedule.total)
        self.last_step: StepReport | None = None
        self.saved_step: int | None = None
        self.saved_at = self.told_at = time.monotonic()
        self.save_now = self.stopping = False

    # ------------------------------------------------------------------------------ the loop

    def fit(self) -> None:
        """Train from the newest checkpoint to the last step.

        Raises:
            TerminatedError: a rank was asked to stop; the step that was reached is saved.
            NonFiniteError: loss or gradient is no number; nothing of that step was applied.
            DataError: a row of a stream is not what the run promised.
        """
        self.resume()
        with collected_on_schedule() as collect:
            self.step_after_step(collect)

    def step_after_step(self, collect: Callable[[int], None]) -> None:
        """The loop itself.

        Args:
            collect: Called after a step, when there is time for garbage.
        """
        while True:
            step = self.progress.step

            # Once in a while: how good is it on data that it has not seen?
            if step in self.schedule.evaluate_at and self.progress.evaluated_step != step:
                self.evaluate()

            # Once in a while, at the end, and when asked to stop: save.
            if self.save_is_due():
                self.save()
            if self.stopping:
                raise TerminatedError(f"stopped and saved at step {step}")
            if step >= self.schedule.total or self.out_of_patience:
                self.telemetry.arrived()
                return

            self.telemetry.stage(Stage.TRAINING)
            try:
                self.train_step(step + 1)
            except DataError:  # on all ranks, before anything of the step was computed
                self.keep_what_was_reached()
                raise
            collect(step + 1)

    def train_step(self, step: int) -> None:
        """Forward, backward, agree, update: one optimizer step over all ranks.

        Where memory runs out it only makes the micro-batches smaller.
        """
        started = time.monotonic()
        micro_batches = self.batches_of(step)
        waited = time.monotonic() - started
        self.seed(step)
        losses, full = self.forward_and_backward(micro_batches)
        grads = optim.gradients(self.objective)
        norm_here = optim.gradient_norm(grads)
        agreed = self.agree(losses, micro_batches, full=full, norm=norm_here)
        loss_sum, weight, tokens, samples, pairs, stop, save, ranks_full, norm = agreed
        if ranks_full:
            self.cutting.halve(step)
            self.evaluator = dataclasses.replace(self.evaluator, micro=self.cutting.micro)
            return  # nothing was applied: the step is made again, as if for the first time

        # Averaged over the ranks was what must be a sum; divide by what was predicted.
        scale = self.group.size / max(weight, 1.0)
        loss_mean, norm = loss_sum / max(weight, 1.0), norm * scale
        if not (math.isfinite(loss_mean) and math.isfinite(norm)):
            self.checkpoints.settle()
            raise nonfinite.explain(
                self.group,
                micro_batches,
                step=step,
                own_loss=losses.item(),
                own_gradient=lambda: self.own_gradient_is_finite(step, micro_batches),
                loss=loss_mean,
                norm=norm,
                last=self.last_step or next(reversed(self.progress.curve), None),
            )
        self.checkpoints.copied()  # a save may still be reading the weights
        clip = self.run.training.optimizer.gradient_clip
        optim.scale_and_clip(grads, scale=scale, norm=norm, clip=clip)
        rate = optim.learning_rate(step, total=self.schedule.total, run=self.run)
        optim.set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.strategy.clear()

        self.progress.step, self.progress.tokens = step, self.progress.tokens + int(tokens)
        self.stopping, self.save_now = bool(stop), bool(save)
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
                flops=self.flops.count(tokens=tokens, heads=weight, pairs=pairs)
                if self.flops
                else 0.0,
            )
        )

    def batches_of(self, step: int) -> list[Batch]:
        """The micro-batches of a step on this rank.

        Each rank reads a stream by itself. One whose row is bad, in a file that is damaged only
        where it runs perhaps, would leave the others waiting in the step: so they ask each other
        first, host to host, while devices still update the weights.

        Raises:
            DataError: a row of a stream is bad; the same error on all ranks.
        """
        if (stream := self.stream) is None:
            return self.cutting.step(step)

        def read() -> list[Batch]:
            batches = self.cutting.step(step)
            stream.reach(step * self.order.batch)
            return batches

        return self.group.all_or_none(read, DataError)

    def forward_and_backward(self, micro_batches: list[Batch]) -> tuple[torch.Tensor, bool]:
        """Leave the gradient of the summed loss, averaged over the ranks.

        The loss is summed, never averaged over micro-batches or ranks of unequal size: it is
        divided once, when the number of predictions of all ranks is known.

        Returns:
            This rank's loss, shape [], still on the device; and whether its memory ran out, when
            loss and gradient mean nothing.

        Raises:
            OutOfMemoryError: it did where the ranks cannot go on; the next start will need less.
        """
        losses, full = torch.zeros((), device=self.group.device), False
        try:
            # What it casts serves all micro-batches: it is forgotten where the outermost context
            # ends.
            with self.autocast():
                for batch, is_last in _with_last(micro_batches):
                    with self.strategy.exchanging(gradients=is_last):
                        loss, _ = self.objective(batch.to(self.group.device))
                        with self.autocast(enabled=False):
                            loss.backward()
                    losses += loss.detach()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not self.strategy.survives_out_of_memory:
                raise self.cutting.kept.shrunk(self.cutting.micro, "in training") from error
            full = True
        self.strategy.settle()
        return losses, full

    def seed(self, step: int) -> None:
        """Dropout is a function of seed, step and rank: nothing to save, the same when resumed."""
        seed = int(draw(self.run.training.seed, step, self.group.place.rank)) >> 1
        torch.manual_seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002 - transformers masks sound with it

    def own_gradient_is_finite(self, step: int, micro_batches: list[Batch]) -> bool:
        """Look again at a step whose gradient ran away; all ranks together."""
        self.seed(step)
        return nonfinite.own_gradient_is_finite(self.strategy, micro_batches, self.autocast)

    def agree(
        self, losses: torch.Tensor, micro_batches: list[Batch], *, full: bool, norm: torch.Tensor
    ) -> list[float]:
        """One small all-reduce carries all that the ranks must agree on; one read brings it here.

        Returns:
            Sums over all ranks of loss, predictions, tokens, samples, pairs of positions, wishes
            to stop and to save, memory that ran out; and the norm, which is the same on each.
        """
        flags = [self.stop.requested, self.group.is_first and self.clock_says_save(), full]
        stats = torch.tensor([0.0, *_counts(micro_batches), *flags], dtype=torch.float64)
        stats = stats.to(self.group.device)
        stats[0] = losses
        agreed: list[float] = torch.cat([self.group.sum(stats), norm[None]]).tolist()
        return agreed

    # ----------------------------------------------------------------------------- its parts

    def resume(self) -> None:
        """Go on from the newest complete checkpoint, if there is one."""
        manifest = self.checkpoints.newest()
        if manifest is not None:
            self.checkpoints.load(manifest.progress.step, self.objective.model, self.optimizer)
            self.progress = manifest.progress
            if self.stream is not None and self.progress.stream is not None:
                self.stream.seek(self.progress.stream, step=self.progress.step)
            self.saved_step = manifest.progress.step
            self.telemetry.status.checkpoint = self.checkpoints.described(manifest)
            log.info("resumed", extra={"step": self.progress.step, "from": manifest.term})
        peak = peak_flops(self.group.device, self.run.training.precision) if self.flops else None
        self.telemetry.plan(
            total_steps=self.schedule.total,
            peak_flops=peak * self.group.size if peak else None,
        )
        self.telemetry.resumed(step=self.progress.step, tokens=self.progress.tokens)

    def evaluate(self) -> None:
        """Measure on validation; note the score, and whether it is the best so far.

        Raises:
            NonFiniteError: the loss is no number: no score of such weights means anything.
        """
        self.telemetry.stage(Stage.EVALUATING)
        limit = self.run.evaluation.max_sequences
        best_by = self.run.best_by if isinstance(self.run, FinetuneRun) else None
        self.strategy.averages.share(self.group)
        measured = self.evaluator.measure(self.validation, limit=limit)
        if measured is None:
            self.stopping = True
            return
        if not math.isfinite(measured.loss):
            self.checkpoints.settle()
            raise nonfinite.in_validation(self.progress.step, measured.loss, self.last_step)
        scores = self.objective.task.metrics(measured, self.validation)
        if self.progress.note(scores, best_by):
            self.save_now = True
        self.telemetry.validated(scores)

    def look(self, examples: Examples) -> Numbers:
        """What the model predicts for each example of a split, as it is now.

        Raises:
            TerminatedError: a rank was asked to stop.
        """
        self.telemetry.stage(Stage.EVALUATING)
        measured = self.evaluator.measure(examples)
        if measured is None:
            raise TerminatedError(f"stopped while looking at the data at step {self.progress.step}")
        return measured.predictions

    @property
    def out_of_patience(self) -> bool:
        """Whether the score has stood still for long enough; all of it is in the checkpoint."""
        spec = self.run.evaluation
        patience = spec.patience if isinstance(spec, FinetuneEvaluation) else None
        return patience is not None and self.progress.waited >= patience

    def save(self) -> None:
        """Have this step written while training goes on; at an end, wait for it."""
        self.telemetry.stage(Stage.SAVING)
        step = self.progress.step
        wait = self.stopping or step == self.schedule.total or self.out_of_patience
        if self.stream is not None:
            self.progress.stream = self.stream.position(step * self.order.batch)
        self.strategy.averages.share(self.group)
        self.checkpoints.save(self.objective.model, self.optimizer, self.progress, wait=wait)
        self.saved_step, self.saved_at, self.save_now = step, time.monotonic(), False
        self.notice_saved()

    def keep_what_was_reached(self) -> None:
        """A row of a stream is bad: when it is corrected, go on from here. All ranks together."""
        if self.progress.step in (0, self.saved_step):
            self.checkpoints.settle()
            self.group.gather(None)  # a rank that leaves early ends those that still write
        else:
            self.stopping = True
            self.save()

    def notice_saved(self) -> None:
        """Tell of the checkpoint that was completed since, and learn what it cost."""
        if saved := self.checkpoints.finished():
            self.telemetry.saved(saved.checkpoint, blocked=saved.blocked, written=saved.written)
            self.interval.learn(saved.blocked + saved.written)
        waited = time.monotonic() - self.saved_at
        if self.schedule.save_is_near(self.progress.step) or 2 * waited > self.interval.seconds:
            self.checkpoints.warm_up()

    def save_is_due(self) -> bool:
        """The same answer on every rank."""
        step = self.progress.step
        at_end = self.schedule.saves_at(step) or self.out_of_patience
        wanted = self.stopping or self.save_now or at_end
        return wanted and step != self.saved_step

    def clock_says_save(self) -> bool:
        """Asked of the first rank only: its clock decides for all."""
        due = time.monotonic() - self.saved_at > self.interval.seconds
        return due and not self.checkpoints.in_flight

    def going_on(self) -> bool:
        """Whether nobody has asked this rank to stop; asking is a sign of life."""
        self.telemetry.alive()
        return not self.stop.requested

    def autocast(self, *, enabled: bool = True) -> Any:
        """bfloat16 for what tolerates it; the weights stay float32."""
        enabled = enabled and self.run.training.precision is not Precision.FP32
        return torch.autocast(self.group.device.type, torch.bfloat16, enabled=enabled)

    def tell(self, done: StepReport) -> None:
        """Status and metrics after every step, a log line every few seconds."""
        self.last_step = done
        self.telemetry.step(done)
        if point := self.meter.add(done):
            self.progress.curve.append(point)
            self.telemetry.plotted(point)
        self.notice_saved()
        now = time.monotonic()
        at_an_end = done.step in (self.telemetry.status.first_step, self.schedule.total)
        if at_an_end or now - self.told_at > SECONDS_BETWEEN_LOG_LINES:
            self.telemetry.log_step(done)
            self.told_at = now


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


def _some(examples: Examples, *, at_most: int) -> Batch:
    """The first examples."""
    indices = np.arange(min(at_most, len(examples)))
    return examples.batch(indices, np.zeros_like(indices))


def _lengths(examples: Examples) -> Integers:
    """Tokens of examples: so many of them that no corpus is too large to ask."""
    sample = np.linspace(0, len(examples) - 1, num=min(len(examples), 100_000), dtype=np.int64)
    return examples.lengths(sample)
