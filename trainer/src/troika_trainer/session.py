"""One run on one rank, in the order that things happen. Everything here may import torch."""

from troika_api.contract import Stage

from .checkpoint import Checkpoints, checkpoint_directory
from .distributed import process_group
from .finish import finish
from .loop import Trainer
from .model import build_model
from .place import Place
from .prepare import Cache, prepare_task
from .runfile import Run
from .shutdown import StopSignal
from .tasks.base import Objective
from .telemetry import Telemetry


def train(run: Run, place: Place, telemetry: Telemetry, stop: StopSignal) -> None:
    """Prepare, train, evaluate, export."""
    directory = checkpoint_directory(run.checkpoint.uri)
    with process_group(place) as group:
        checkpoints = Checkpoints(directory, keep=run.checkpoint.keep, group=group)
        checkpoints.register()

        telemetry.stage(Stage.TOKENIZING)
        task, stores = prepare_task(run, Cache(directory / "cache", group, telemetry.alive))
        splits = {name: task.examples(store) for name, store in stores.items()}

        telemetry.stage(Stage.LOADING)
        trainer = Trainer(
            Objective(build_model(run, task), task),
            train=splits["train"],
            validation=splits["validation"],
            group=group,
            checkpoints=checkpoints,
            telemetry=telemetry,
            stop=stop,
        )
        with stop.finishing_steps():
            trainer.fit()
        finish(trainer, test=splits.get("test"))
