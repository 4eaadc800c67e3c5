"""What a task says went most wrong: worst first, mistakes only, with words a person can read."""

from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from troika_trainer.detection import worst_scenes
from troika_trainer.report import LONGEST_SHOWN, WORST_SHOWN, Mistake, shortened, worst
from troika_trainer.tasks.base import Measured
from troika_trainer.tasks.classes import class_predictions, classes_of, worst_classes
from troika_trainer.tasks.ranking import worst_candidates
from troika_trainer.tasks.text_classification import worst_many

NAMES = ["ant", "bee", "cow"]


def measured(predictions: Any) -> Measured:
    return Measured(loss=0.0, weight=1, predictions=np.asarray(predictions, dtype=np.float32))


def mistake(index: int) -> Mistake:
    return Mistake(index + 1, "", "", "", "loss", 0.0)


def test_the_worst_come_first_and_what_is_right_never() -> None:
    found = worst(np.array([0.0, 3.0, 1.0, 0.0, 3.0]), mistake)
    assert [entry.row for entry in found] == [2, 5, 3]
    assert worst(np.zeros(5), mistake) == []


def test_there_are_never_too_many() -> None:
    assert len(worst(np.arange(1000.0), mistake)) == WORST_SHOWN


def test_long_texts_are_cut() -> None:
    assert shortened("short") == "short"
    assert len(shortened("x" * 10_000)) == LONGEST_SHOWN
    assert shortened("x" * 10_000).endswith("x…")


def test_predictions_of_a_classifier_are_a_class_and_its_loss() -> None:
    logits = torch.randn(8, 300, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(8) * 37
    made = class_predictions(logits, labels)
    assert classes_of(measured(made.numpy())).tolist() == logits.argmax(-1).tolist()
    assert torch.isclose(made[:, 1].sum(), cross_entropy(logits, labels, reduction="sum"))


def test_of_a_classifier_the_surest_mistakes_are_the_worst() -> None:
    #            wrong       right, unsure   wrong, surer  right
    predicted = [[1.0, 2.0], [1.0, 5.0], [0.0, 4.0], [2.0, 0.1]]
    truth = np.array([0, 1, 2, 2])
    found = worst_classes(measured(predicted), truth, NAMES, lambda index: f"text {index}")
    assert found == [
        Mistake(3, "text 2", "cow", "ant", "loss", 4.0),
        Mistake(1, "text 0", "ant", "bee", "loss", 2.0),
    ]


def test_of_many_labels_most_wrong_classes_are_worst() -> None:
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    guess = np.array([[1, 0, 0], [0, 0, 0], [1, 0, 1]])
    found = worst_many(truth, guess, NAMES, str)
    assert found == [
        Mistake(2, "1", "ant, bee", "(none)", "classes wrong", 2.0),
        Mistake(3, "2", "cow", "ant, cow", "classes wrong", 1.0),
    ]


def test_of_candidates_those_furthest_from_their_relevance_are_worst() -> None:
    """Logits 0, 100 and -100 are half, all and nothing of the highest relevance in training."""
    relevance = np.array([4.0, 0.0, 2.0, 5.0])
    scores = np.array([-100.0, 0.0, 0.0, 100.0], dtype=np.float32)
    found = worst_candidates(relevance, scores, 4.0, lambda index: f"text {index}")
    # The last one is more relevant than any in training: the model cannot say so.
    assert found == [
        Mistake(1, "text 0", "4", "0", "relevance off by", 4.0),
        Mistake(2, "text 1", "0", "2", "relevance off by", 2.0),
    ]


def test_of_images_those_with_most_objects_missed_or_invented_are_worst() -> None:
    def there(*objects: list[float]) -> Any:
        return np.array(objects).reshape(-1, 5)

    def seen(*objects: list[float]) -> Any:
        return np.array(objects).reshape(-1, 6)

    box, other = [10.0, 10.0, 20.0, 20.0], [60.0, 60.0, 20.0, 20.0]
    truth = [there([0, *box]), there([0, *box], [2, *other], [2, *box]), there([1, *box]), there()]
    found = [
        seen([0.9, 0, *box]),
        seen([0.9, 0, *other], [0.8, 0, *other], [0.4, 2, *box]),  # the last one is not sure
        seen([0.9, 1, *box], [0.9, 1, *box]),  # one object is found once
        seen(),
    ]
    assert worst_scenes(truth, found, NAMES, lambda index: f"picture {index}") == [
        Mistake(
            *(2, "", "ant (1), cow (2)", "ant (2)", "objects missed or invented", 5.0),
            picture="picture 1",
        ),
        Mistake(
            *(3, "", "bee (1)", "bee (2)", "objects missed or invented", 1.0),
            picture="picture 2",
        ),
    ]
