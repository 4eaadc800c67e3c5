"""One run on one rank, in the order that things happen. Everything here may import torch."""

from contextlib import closing

from troika_api.contract import Stage

from . import float8
from .attention import rows_known, use_fast_attention
from .checkpoint import Checkpoints, checkpoint_directory
from .distributed import process_group
from .finish import finish
from .frozen import digest_of_frozen
from .lineage import MODEL
from .loop import Trainer
from .method import apply_method, check_machine
from .model import build
from .place import Place
from .prepare import Cache, first_look, prepare_task
from .recompute import checkpoint_activations
from .runfile import Run
from .shutdown import StopSignal
from .stream import stream_of
from .tasks.base import Objective
from .telemetry import Telemetry
from .tracking import Tracking, trackers


def train(run: Run, place: Place, telemetry: Telemetry, stop: StopSignal) -> None:
    """Prepare, train, evaluate, export."""
    check_machine(run)
    float8.check_device(run.training)
    use_fast_attention()
    directory = checkpoint_directory(run.checkpoint.uri)
    with (
        rows_known(packed=bool(run.data.packing)),
        process_group(place) as group,
        closing(Checkpoints(directory, keep=run.checkpoint.keep, group=group)) as checkpoints,
    ):
        checkpoints.register()

        telemetry.stage(Stage.TOKENIZING)
        own, named = directory / "cache", run.data.cache
        shared = checkpoint_directory(named.uri, "data.cache.uri") if named else own
        cache = Cache(shared, own, group, telemetry.alive)
        prepared = prepare_task(run, cache)
        task, stores = prepared.task, prepared.stores
        checkpoints.lineage = prepared.lineage
        splits = {name: task.examples(store) for name, store in stores.items()}

        telemetry.stage(Stage.LOADING)
        built = build(run, task)
        adapter = apply_method(run, built, pipeline_tag=task.pipeline_tag)
        if digest := group.from_first(lambda: digest_of_frozen(built.model)):
            checkpoints.lineage = {**prepared.lineage, MODEL: digest}
        checkpoint_activations(built.model, run.training.activation_checkpointing)
        trainer = Trainer(
            Objective(built.model, task, adapter),
            train=splits["train"],
            validation=splits["validation"],
            group=group,
            stream=stream_of(stores["train"]),
            checkpoints=checkpoints,
            telemetry=telemetry,
            stop=stop,
        )
        with telemetry.tracking(Tracking(trackers(run, directory) if group.is_first else ())):
            with stop.finishing_steps():
                first_look(prepared, splits, cache, trainer.look)
                trainer.fit()
            finish(trainer, test=splits.get("test"))
