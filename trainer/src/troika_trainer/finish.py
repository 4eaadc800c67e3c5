"""After the last step: the best weights, the final scores, the exported model."""

import logging
import secrets
import time

from troika_api.contract import Evaluation, LastWord, Stage
from troika_api.v1alpha1.run import FinetuneRun
from troika_api.v1alpha1.tasks import Criterion

from .batch import Examples
from .delivery import delivery_to
from .environment import environment
from .errors import TerminatedError
from .export import Result, export, publish
from .frozen import restore_frozen
from .loop import Trainer
from .model import build
from .tasks.base import Measured

log = logging.getLogger(__name__)


def finish(trainer: Trainer, *, test: Examples | None) -> None:
    """Evaluate, export, and leave the word of success.

    Args:
        trainer: At its last step.
        test: The split for the final report; validation where there is none.
    """
    run, progress, telemetry = trainer.run, trainer.progress, trainer.telemetry
    task = trainer.objective.task
    report, worst, instead = None, [], dict[str, str]()
    if isinstance(run, FinetuneRun):
        instead = _load_best(trainer, run.best_by)
        examples = test if test is not None else trainer.validation
        measured = _measured(trainer, examples)
        report = task.report(measured, examples)
        worst = task.worst(measured, examples)
        scores = task.metrics(measured, examples)
    else:
        scores = {name: value for name, value in progress.history[-1].items() if name != "step"}
    evaluation = Evaluation(
        split="test" if test is not None else "validation",
        metrics=scores,
        classes=report.classes if report else [],
        best_step=progress.best_step,
    )
    telemetry.tested(evaluation)
    telemetry.stage(Stage.EXPORTING)
    trainer.strategy.collect()
    task.finish(trainer.objective.model)
    result = Result(
        run,
        task.pipeline_tag,
        progress,
        evaluation,
        report,
        worst=worst,
        environment=environment(run, trainer.group, trainer.objective.model) | instead,
    )
    _deliver(trainer, result)
    path = run.output.uri
    telemetry.stage(Stage.DONE)
    log.info("model exported", extra={"path": path, **scores})
    telemetry.leave_word(
        LastWord(
            outcome="Succeeded",
            time=time.time(),
            status=telemetry.status,
            evaluation=evaluation,
            model_path=path,
        )
    )


def _deliver(trainer: Trainer, result: Result) -> None:
    """Write the model, and put it where readers look only if this attempt still may."""
    group, objective = trainer.group, trainer.objective
    trainer.checkpoints.check_ours()
    delivery = delivery_to(
        trainer.run.output.uri, term=group.place.term, token=secrets.token_hex(4)
    )

    def write() -> None:
        exported = objective.adapter or objective.model
        restore_frozen(objective.model, lambda: build(trainer.run, objective.task).model)
        export(exported, objective.task.preprocessor, result, delivery)

    try:
        # Not a collective: a large model on slow storage may take longer than one may.
        group.wait_for_first(write)
        trainer.checkpoints.check_ours()  # a newer attempt may have begun in the meantime
        group.wait_for_first(lambda: publish(delivery))
    finally:
        if group.is_first:
            delivery.clean_up()


def _load_best(trainer: Trainer, best_by: Criterion) -> dict[str, str]:
    """Load the best weights that are left, and make the progress say which they are.

    Returns:
        What to tell of it in the report: nothing where they are those that were the best.
    """
    progress, checkpoints = trainer.progress, trainer.checkpoints
    best = progress.best_step
    if best is None or best == progress.step:
        return {}
    if checkpoints.verified(best) is not None:
        checkpoints.load(best, trainer.objective.model)
        return {}
    left = progress.best_first({*checkpoints.steps(), progress.step} - {best}, best_by)
    for step in left:
        if step == progress.step or checkpoints.verified(step) is not None:
            break
    else:
        step = progress.step
    if step != progress.step:
        checkpoints.load(step, trainer.objective.model)
    progress.best_step = step
    log.warning("the best checkpoint is damaged: step %d instead of %d", step, best)
    return {"Weights": f"of step {step}: the checkpoint of the best, step {best}, was damaged"}


def _measured(trainer: Trainer, examples: Examples) -> Measured:
    trainer.telemetry.stage(Stage.EVALUATING)
    measured = trainer.evaluator.measure(examples)
    if measured is None:
        raise TerminatedError("stopped in the final evaluation; all steps are saved")
    return measured
