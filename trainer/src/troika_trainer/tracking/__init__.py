"""Where the numbers of a run go beside its status: TensorBoard always, MLflow and W&B on request.

Only the first rank tracks. Nothing in here can stop or slow the training: see `courier.py`.
"""

from pathlib import Path

from troika_trainer.runfile import Run

from .base import Outcome, Tracker
from .courier import Tracking
from .mlflow import MLflow
from .tensorboard import TensorBoard
from .wandb import WeightsAndBiases

__all__ = ["Outcome", "Tracking", "trackers"]


def trackers(run: Run, directory: Path) -> list[Tracker]:
    """Those that a run asks for.

    Args:
        run: The run.
        directory: That of its checkpoints: what is written there, later attempts find.
    """
    found: list[Tracker] = [TensorBoard(directory / "tensorboard")]
    if run.tracking and run.tracking.mlflow:
        found.append(MLflow(run.tracking.mlflow, run, directory / "mlflow-run"))
    if run.tracking and run.tracking.wandb:
        found.append(WeightsAndBiases(run.tracking.wandb, run, directory))
    return found
