"""When things happen, in steps: derived once from the run and the size of its data."""

import math
from dataclasses import dataclass

from troika_api.v1alpha1.run import FinetuneRun

from .batches import Order
from .runfile import Run


@dataclass(frozen=True)
class Schedule:
    """How long the run is, and when it evaluates and saves."""

    total: int
    evaluate_at: frozenset[int]
    save_every: int | None
    """Steps between two checkpoints, or None where a clock decides."""

    @classmethod
    def of(cls, run: Run, order: Order, *, tokens_per_example: float) -> "Schedule":
        """Pretraining is measured ten times from step 0 on, fine-tuning after every epoch.

        Where the run says how often, fine-tuning begins with that many steps: before the first
        one there is no head worth measuring.
        """
        total = _total_steps(run, order, tokens_per_example)
        every = run.evaluation.every_steps
        if isinstance(run, FinetuneRun) and every is not None:
            evaluate_at = {*range(every, total, every), total}
        elif isinstance(run, FinetuneRun):
            epochs = range(1, math.ceil(order.epoch(total)) + 1)
            evaluate_at = {min(order.last_step_of(epoch), total) for epoch in epochs}
        else:
            evaluate_at = {*range(0, total, every or math.ceil(total / 10)), total}
        interval = run.checkpoint.interval
        if interval.endswith("steps"):
            return cls(total, frozenset(evaluate_at), int(interval.removesuffix("steps")))
        return cls(total, frozenset(evaluate_at), None)

    def save_is_near(self, step: int) -> bool:
        """Whether half of the steps to the first checkpoint are done."""
        return self.save_every is not None and 2 * step >= self.save_every < self.total

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due by the count of steps."""
        every = self.save_every
        return step == self.total or (every is not None and step > 0 and step % every == 0)


def _total_steps(run: Run, order: Order, tokens_per_example: float) -> int:
    length = run.training
    if length.steps is not None:
        return length.steps
    if length.tokens is not None:
        return math.ceil(length.tokens / (order.batch * tokens_per_example))
    assert length.epochs is not None  # `runfile` has seen to it that one of the three is set
    return math.ceil(length.epochs * order.size / order.batch)
