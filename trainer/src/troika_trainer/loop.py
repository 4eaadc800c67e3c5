"""The step and the loop. Read it from top to bottom."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from troika_api.contract import Stage
from troika_api.v1alpha1.training import FinetuneEvaluation, Precision, PretrainEvaluation

from . import optim
from .batch import Batch, Examples
from .batches import Ahead, Batches, Order, micro_batch_size
from .checkpoint import Checkpoints, Progress
from .distributed import Group, data_parallel
from .errors import NonFiniteError, TerminatedError
from .evaluate import Evaluator
from .flops import flop_counter, peak_flops
from .randomness import draw
from .schedule import Schedule
from .shutdown import StopSignal
from .tasks.base import Objective
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
        group: Group,
        checkpoints: Checkpoints,
        telemetry: Telemetry,
        stop: StopSignal,
    ) -> None:
        run = objective.task.run
        self.run, self.group, self.checkpoints = run, group, checkpoints
        self.telemetry, self.stop, self.validation = telemetry, stop, validation
        self.order = Order(len(train), run.training.global_batch_size, run.training.seed)
        micro = micro_batch_size(run.training, group.place)
        self.batches = Ahead(Batches(train, self.order, place=group.place, micro=micro))
        self.schedule = Schedule.of(run, self.order, tokens_per_example=_mean_length(train))

        self.objective = objective.to(group.device)
        objective.task.attach(objective.model)
        self.optimizer = optim.build_optimizer(objective.model, run.training.optimizer)
        self.module = data_parallel(objective, group, trial=_trial(train))
        if run.training.compile:
            self.module.compile()
        self.evaluator = Evaluator(objective, group, micro, self.autocast, self.going_on)
        self.flops = flop_counter(objective.model)

        self.progress = Progress()
        self.saved_step: int | None = None
        self.saved_at = self.told_at = time.monotonic()
        self.save_now = self.stopping = False

    # ------------------------------------------------------------------------------ the loop

    def fit(self) -> None:
        """Train from the newest checkpoint to the last step.

        Raises:
            TerminatedError: a rank was asked to stop; the step that was reached is saved.
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
            if self.stopping:
                raise TerminatedError(f"stopped and saved at step {step}")
            if step >= self.schedule.total:
                return

            self.telemetry.stage(Stage.TRAINING)
            self.train_step(step + 1)

    def train_step(self, step: int) -> None:
        """Forward, backward, agree, update: one optimizer step over all ranks."""
        started = time.monotonic()
        micro_batches = self.batches.step(step)
        waited = time.monotonic() - started
        # Dropout is a function of seed, step and rank: nothing to save, the same after a resume.
        torch.manual_seed(int(draw(self.run.training.seed, step, self.group.place.rank)) >> 1)

        losses = self.forward_and_backward(micro_batches)
        grads = optim.gradients(self.objective)
        agreed = self.agree(losses, micro_batches, norm=optim.gradient_norm(grads))
        loss_sum, weight, tokens, samples, pairs, stop, save, norm = agreed

        # DDP has averaged over the ranks what must be a sum; divide by what was predicted.
        scale = self.group.size / max(weight, 1.0)
        loss_mean, norm = loss_sum / max(weight, 1.0), norm * scale
        if not (math.isfinite(loss_mean) and math.isfinite(norm)):
            raise self.non_finite(step, loss_mean, norm)
        clip = self.run.training.optimizer.gradient_clip
        optim.scale_and_clip(grads, scale=scale, norm=norm, clip=clip)
        rate = optim.learning_rate(step, total=self.schedule.total, run=self.run)
        optim.set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

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
                flops=self.flops.count(tokens=tokens, heads=weight, pairs=pairs),
            )
        )

    def forward_and_backward(self, micro_batches: list[Batch]) -> torch.Tensor:
        """Leave the gradient of the summed loss; DDP averages it over the ranks.

        The loss is summed, never averaged over micro-batches or ranks of unequal size: it is
        divided once, when the number of predictions of all ranks is known.

        Returns:
            This rank's loss, shape [], still on the device.
        """
        losses = torch.zeros((), device=self.group.device)
        for batch, is_last in _with_last(micro_batches):
            with self.exchanging(gradients=is_last):
                with self.autocast():
                    loss, _ = self.module(batch.to(self.group.device))
                loss.backward()
            losses += loss.detach()
        return losses

    def agree(
        self, losses: torch.Tensor, micro_batches: list[Batch], *, norm: torch.Tensor
    ) -> list[float]:
        """One small all-reduce carries all that the ranks must agree on; one read brings it here.

        Returns:
            Sums over all ranks of loss, predictions, tokens, samples, pairs of positions, wishes
            to stop and to save; and the norm, which is the same on each.
        """
        flags = [self.stop.requested, self.group.is_first and self.clock_says_save()]
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
            self.saved_step = manifest.progress.step
            self.telemetry.status.checkpoint = self.checkpoints.described(manifest)
            log.info("resumed", extra={"step": self.progress.step, "from": manifest.attempt})
        peak = peak_flops(self.group.device)
        self.telemetry.plan(
            total_steps=self.schedule.total,
            peak_flops=peak * self.group.size if peak else None,
        )
        self.telemetry.resumed(step=self.progress.step, tokens=self.progress.tokens)

    def evaluate(self) -> None:
        """Measure on validation; note the score, and whether it is the best so far."""
        self.telemetry.stage(Stage.EVALUATING)
        spec = self.run.evaluation
        limit = spec.max_sequences if isinstance(spec, PretrainEvaluation) else None
        best_by = spec.best_by if isinstance(spec, FinetuneEvaluation) else None
        measured = self.evaluator.measure(self.validation, limit=limit)
        if measured is None:
            self.stopping = True
            return
        scores = self.objective.task.metrics(measured, self.validation)
        if self.progress.note(scores, best_by):
            self.save_now = True
        self.telemetry.validated(scores)

    def save(self) -> None:
        """Write a checkpoint of this step."""
        self.telemetry.stage(Stage.SAVING)
        started = time.monotonic()
        saved = self.checkpoints.save(self.objective.model, self.optimizer, self.progress)
        self.saved_step, self.saved_at, self.save_now = saved.step, time.monotonic(), False
        self.telemetry.saved(saved, seconds=self.saved_at - started)

    def save_is_due(self) -> bool:
        """The same answer on every rank."""
        step = self.progress.step
        wanted = self.stopping or self.save_now or self.schedule.saves_at(step)
        return wanted and step != self.saved_step

    def clock_says_save(self) -> bool:
        """Asked of the first rank only: its clock decides for all."""
        return time.monotonic() - self.saved_at > self.schedule.save_seconds

    def going_on(self) -> bool:
        """Whether nobody has asked this rank to stop; asking is a sign of life."""
        self.telemetry.alive()
        return not self.stop.requested

    def autocast(self) -> Any:
        """bfloat16 for what tolerates it; the weights stay float32."""
        enabled = self.run.training.precision is Precision.BF16
        return torch.autocast(self.group.device.type, torch.bfloat16, enabled=enabled)

    @contextlib.contextmanager
    def exchanging(self, *, gradients: bool) -> Iterator[None]:
        """Only the last micro-batch of a step exchanges gradients between the ranks."""
        if gradients or not isinstance(self.module, DistributedDataParallel):
            yield
        else:
            with self.module.no_sync():
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
        """Status and metrics after every step, a log line every few seconds."""
        self.telemetry.step(done)
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


def _trial(examples: Examples) -> Batch:
    """One or two examples, to see which weights the loss reaches."""
    indices = np.arange(min(2, len(examples)))
    return examples.batch(indices, np.zeros_like(indices))


def _mean_length(examples: Examples) -> float:
    """Tokens of an example, from so many of them that no corpus is too large to ask."""
    sample = np.linspace(0, len(examples) - 1, num=min(len(examples), 100_000), dtype=np.int64)
    return float(examples.lengths(sample).mean())
