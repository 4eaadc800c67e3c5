"""Our side: the product from `session.train` down, with a gate where it reports its steps.

Nothing here imports torch before the product's own settings are made, as in a pod.
"""

import os
from typing import Any

from typing_extensions import override

from troika_api.contract import ENV_METRICS_PORT, Stage
from troika_api.v1alpha1.run import RUN
from troika_trainer import runfile
from troika_trainer.errors import Ending
from troika_trainer.place import Place
from troika_trainer.shutdown import StopSignal
from troika_trainer.telemetry import StepReport, Telemetry

from .sides import Gate
from .work import Work


class Gated(Telemetry):
    """Telemetry that waits for the turn of its side after every step."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(kind="PretrainJob", name="bench", place=Place())
        self._gate = gate
        self._left_training: tuple[float, float] | None = None

    @override
    def stage(self, stage: Stage) -> None:
        super().stage(stage)
        if stage is not Stage.TRAINING:
            self._left_training = self._left_training or self._gate.now()
        elif self.status.first_step is None:
            self._gate.open()
        elif self._left_training:
            self._gate.hold(self._left_training)
        if stage is Stage.TRAINING:
            self._left_training = None

    @override
    def step(self, done: StepReport) -> None:
        super().step(done)
        self._gate.passed(tokens=done.tokens, loss=done.loss)

    @override
    def validated(self, scores: dict[str, float]) -> None:
        super().validated(scores)
        self._gate.validation = scores["loss"]


class Optional(Gated):
    """Telemetry that does nothing in the stretches in which it is switched off."""

    @override
    def step(self, done: StepReport) -> None:
        if self._gate.option or self.status.first_step is None:
            Telemetry.step(self, done)
        self._gate.passed(tokens=done.tokens, loss=done.loss)

    @override
    def stage(self, stage: Stage) -> None:
        if self._gate.option or self.status.first_step is None:
            super().stage(stage)

    @override
    def alive(self) -> None:
        if self._gate.option or self.status.first_step is None:
            super().alive()


def train(gate: Gate, work: Work) -> None:
    """Train until there is enough."""
    _train(work, Gated(gate))


def train_observed(gate: Gate, work: Work, port: int) -> None:
    """The same with an exporter, and telemetry that can be switched off.

    On one thread: several spin while they wait for each other, and that is processor time which
    varies by more than an exporter costs.
    """
    os.environ[ENV_METRICS_PORT] = str(port)
    os.environ["OMP_NUM_THREADS"] = "1"
    _train(work, Optional(gate).serve())


def _train(work: Work, telemetry: Any) -> None:
    run = RUN.validate_python(work.run)
    runfile.set_environment(run)
    runfile.limit_caches_of_shapes()
    from troika_trainer.session import train as train_run

    place = Place()
    train_run(run, place, telemetry, StopSignal(Ending(place)))
