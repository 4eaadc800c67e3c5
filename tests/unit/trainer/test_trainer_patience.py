import math

import pytest

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


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_never_the_best_and_no_improvement(bad: float) -> None:
    first = after(bad, 0.5, bad, 0.4)
    assert (first.best_step, first.best_score, first.waited) == (20, 0.5, 2)
    assert after(bad, bad).best_step is None
    assert after(bad, bad).waited == 2


def test_a_best_score_of_an_earlier_version_that_is_no_number_gives_way() -> None:
    progress = Progress(step=20, best_step=10, best_score=math.nan)
    assert progress.note({"f1": 0.1}, Criterion.F1)


def test_of_a_loss_the_lowest_is_the_best() -> None:
    progress = after(3.0, 2.0, 2.5, best_by=Criterion.LOSS)
    assert (progress.best_step, progress.waited) == (20, 1)


def test_the_best_of_those_that_are_left() -> None:
    progress = after(0.5, 0.9, math.nan, 0.5, 0.7)
    assert progress.best_first({10, 30, 40, 50, 60}, Criterion.F1) == [50, 10, 40]
    losses = after(3.0, 2.0, 2.5, best_by=Criterion.LOSS)
    assert losses.best_first({10, 30}, Criterion.LOSS) == [30, 10]
