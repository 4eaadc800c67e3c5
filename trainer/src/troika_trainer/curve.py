"""How a run went, in points: few enough to keep whole in every checkpoint, whatever its length."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from .telemetry import StepReport

MOST_POINTS = 1000
"""Of a whole run. A screen shows no more, and a manifest stays below 100 kB."""


class Point(NamedTuple):
    """Means over the steps since the point before."""

    step: int
    loss: float
    learning_rate: float
    """Of the step itself, not a mean."""
    gradient_norm: float
    tokens_per_second: float


@dataclass
class Meter:
    """Sums up steps, and gives a point at every n-th. Which steps those are depends on nothing but
    the length of the run, so a resumed run goes on with the same ones.
    """

    total: int
    """Steps of the run."""
    _steps: list[StepReport] = field(default_factory=list)

    @property
    def every(self) -> int:
        """Steps from point to point."""
        return max(1, math.ceil(self.total / MOST_POINTS))

    def add(self, done: StepReport) -> Point | None:
        """Take a step in; a point where one is due: at the first step, every n-th and the last."""
        self._steps.append(done)
        if done.step not in (1, self.total) and done.step % self.every:
            return None
        steps, self._steps = self._steps, []
        seconds = sum(step.seconds for step in steps)
        return Point(
            step=done.step,
            loss=sum(step.loss for step in steps) / len(steps),
            learning_rate=done.learning_rate,
            gradient_norm=sum(step.gradient_norm for step in steps) / len(steps),
            tokens_per_second=sum(step.tokens for step in steps) / max(seconds, 1e-9),
        )
