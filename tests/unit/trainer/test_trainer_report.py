"""The numbers of the classification report, each worked out by hand."""

import numpy as np
import pytest

from troika_trainer.report import classification_report, confusion_matrix

TRUTH = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
GUESS = np.array([0, 0, 1, 2, 1, 1, 0, 2, 2, 2])
NAMES = ["ant", "bee", "cow"]


def test_the_confusion_matrix_has_the_truth_in_its_rows() -> None:
    assert confusion_matrix(TRUTH, GUESS, 3).tolist() == [[2, 1, 1], [1, 2, 0], [0, 0, 3]]


def test_precision_recall_and_f1_by_class() -> None:
    report = classification_report(TRUTH, GUESS, NAMES)
    found = [(s.precision, s.recall, s.f1, s.support) for s in report.classes]
    assert np.allclose(
        found, [(2 / 3, 1 / 2, 4 / 7, 4), (2 / 3, 2 / 3, 2 / 3, 3), (3 / 4, 1, 6 / 7, 3)]
    )
    assert report.accuracy == pytest.approx(0.7)


def test_averages_are_plain_and_by_support() -> None:
    report = classification_report(TRUTH, GUESS, NAMES)
    f1 = (4 / 7, 2 / 3, 6 / 7)
    assert report.macro.f1 == pytest.approx(sum(f1) / 3)
    assert report.weighted.f1 == pytest.approx((4 * f1[0] + 3 * f1[1] + 3 * f1[2]) / 10)
    assert report.weighted.recall == pytest.approx(report.accuracy)
    assert report.macro.support == report.weighted.support == 10


def test_a_class_that_is_never_predicted_or_never_there_scores_zero() -> None:
    report = classification_report(np.array([0, 0, 1]), np.array([0, 0, 0]), NAMES)
    assert [(s.precision, s.recall, s.f1) for s in report.classes[1:]] == [(0, 0, 0), (0, 0, 0)]


@pytest.mark.parametrize(
    ("truth", "guess", "macro"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], (1.0, 1.0, 1.0)),
        ([0, 0, 1], [0, 0, 0], (1 / 3, 1 / 2, 2 / 5)),  # the missed one counts
        ([0, 0, 1], [0, 2, 1], (2 / 3, 1 / 2, 5 / 9)),  # so does the one that is wrongly found
        ([], [], (0.0, 0.0, 0.0)),
    ],
)
def test_the_macro_average_is_over_the_classes_that_occur(
    truth: list[int], guess: list[int], macro: tuple[float, float, float]
) -> None:
    """The numbers of scikit-learn's precision_recall_fscore_support(average="macro")."""
    report = classification_report(
        np.array(truth, dtype=np.int64), np.array(guess, dtype=np.int64), NAMES
    )
    found = (report.macro.precision, report.macro.recall, report.macro.f1)
    assert found == pytest.approx(macro)


def test_the_text_has_a_line_for_every_class_and_the_matrix() -> None:
    text = classification_report(TRUTH, GUESS, NAMES).as_text()
    assert text.splitlines() == [
        "              precision  recall      f1  support",
        "",
        "         ant      0.667   0.500   0.571        4",
        "         bee      0.667   0.667   0.667        3",
        "         cow      0.750   1.000   0.857        3",
        "",
        "    accuracy                      0.700       10",
        "   macro avg      0.694   0.722   0.698       10",
        "weighted avg      0.692   0.700   0.686       10",
        "",
        "confusion matrix",
        "                  ant      bee      cow",
        "         ant        2        1        1",
        "         bee        1        2        0",
        "         cow        0        0        3",
    ]


@pytest.mark.parametrize(("classes", "matrix"), [(20, True), (21, False)])
def test_a_large_confusion_matrix_is_left_to_the_page(classes: int, matrix: bool) -> None:
    every = np.arange(classes)
    text = classification_report(every, every, [f"c{number}" for number in every]).as_text()
    assert ("confusion matrix" in text) is matrix
    assert ("which classes are taken for which: report.html, report.json" in text) is not matrix
    assert f"c{classes - 1}" in text, "each class has a line"


def test_of_a_thousand_classes_the_text_has_the_largest() -> None:
    """It is part of the model's card: with the whole matrix that had 16 MB."""
    truth = np.repeat(np.arange(1000), np.where(np.arange(1000) % 20 == 7, 3, 1))
    report = classification_report(truth, truth, [f"class {number}" for number in range(1000)])
    lines = report.as_text().splitlines()
    listed = [line.split()[1] for line in lines if line.strip().startswith("class ")]
    assert listed == [str(number) for number in range(7, 1000, 20)]
    assert "the 50 of 1000 classes with the most rows; report.json has all" in lines
    assert len(report.as_text()) < 4000
    assert len(report.as_dict()["classes"]) == 1000


def test_of_ten_thousand_classes_no_matrix_is_made() -> None:
    """It would have a hundred million numbers, in every evaluation on every rank."""
    truth = np.arange(10_000)
    guess = np.where(truth % 4 == 0, (truth + 1) % 10_000, truth)
    report = classification_report(truth, guess, [str(number) for number in truth])
    assert report.confusion is None
    assert report.accuracy == report.macro.recall == pytest.approx(0.75)
    assert [(s.precision, s.recall) for s in report.classes[:3]] == [(0, 0), (0.5, 1), (1, 1)]
