from troika_api.v1alpha1.tasks import Criterion
from troika_trainer.manifest import Progress


def after(*scores: float, best_by: Criterion = Criterion.F1) -> Progress:
    progress = Progress()
    for step, score in enumerate(scores, start=1):
        progress.step = step * 10
        progress.note({"loss": 1.0, best_by.value: score}, best_by)
    return progress


def test_nobody_has_waited_before_the_first_evaluation() -> None:
    assert Progress().waited == 0


def test_a_better_score_starts_the_wait_anew() -> None:
    assert after(0.5, 0.4, 0.3).waited == 2
    assert after(0.5, 0.4, 0.6).waited == 0


def test_the_same_score_is_no_better() -> None:
    assert after(0.5, 0.5).waited == 1


def test_of_a_loss_the_lowest_is_the_best() -> None:
    progress = after(3.0, 2.0, 2.5, best_by=Criterion.LOSS)
    assert (progress.best_step, progress.waited) == (20, 1)
