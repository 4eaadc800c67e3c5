"""SQuAD's comparison, spans in windows, and the best span over them."""

import numpy as np
import pytest
import torch

from troika_trainer.answers import answer_report, normalized, scored
from troika_trainer.tasks.question_answering import NOWHERE, best_spans, span


def test_case_punctuation_articles_and_blanks_do_not_count() -> None:
    assert normalized("The  U.S. president,\tan old man!") == "us president old man"


@pytest.mark.parametrize(
    ("predicted", "expected", "exact", "f1"),
    [
        ("the Eiffel Tower", ["Eiffel tower."], 1.0, 1.0),
        ("Tower", ["Eiffel Tower"], 0.0, 2 / 3),
        ("in Paris in 1889", ["1889", "in 1889"], 0.0, 2 * 2 / (4 + 2)),
        ("", [], 1.0, 1.0),
        ("something", [], 0.0, 0.0),
        ("", ["something"], 0.0, 0.0),
        ("cat cat", ["cat"], 0.0, 2 / 3),
    ],
)
def test_the_best_of_the_right_answers_counts(
    predicted: str, expected: list[str], exact: float, f1: float
) -> None:
    answer = scored("?", predicted, expected)
    assert answer.exact_match == exact
    assert answer.f1 == pytest.approx(f1)


def test_the_report_has_means_and_the_worst_first() -> None:
    answers = [scored(str(n), text, ["red fox"]) for n, text in enumerate(["red fox", "red", "x"])]
    report = answer_report(answers)
    assert report.exact_match == pytest.approx(1 / 3)
    assert report.f1 == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert [answer.predicted for answer in report.worst] == ["x", "red"]
    assert "question  2\nexpected  red fox\npredicted x" in report.as_text()
    assert report.as_dict()["questions"] == 3


OFFSETS = np.array([[NOWHERE, NOWHERE], [0, 3], [3, 7], [7, 12], [12, 13]])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (("abc", 0), [1, 1]),
        (("efg hijk", 4), [2, 3]),  # tokens may begin with the blank before a word
        (("hijk.", 8), [3, 4]),
        (("hijk. and more", 8), [0, 0]),  # ends in the next window
        (None, [0, 0]),
    ],
)
def test_an_answer_is_found_in_a_window_or_points_at_its_first_token(
    answer: tuple[str, int] | None, expected: list[int]
) -> None:
    assert span(OFFSETS, answer).tolist() == expected


def test_the_best_span_never_ends_before_it_starts() -> None:
    start = torch.tensor([[5.0, 0.0, 1.0, 9.0, 0.0], [0.0, 7.0, 0.0, -torch.inf, 0.0]])
    end = torch.tensor([[2.0, 8.0, 3.0, 0.0, 1.0], [0.0, 0.0, 1.0, -torch.inf, 6.0]])
    found = best_spans(torch.stack([start, end], dim=1))
    assert found.tolist() == [[3, 4, 10.0, 7.0], [1, 4, 13.0, 0.0]]


def test_the_best_span_is_the_best_of_all_pairs() -> None:
    torch.manual_seed(1)
    logits = torch.randn(50, 2, 12)
    for window, found in zip(logits, best_spans(logits).tolist(), strict=True):
        scores = {
            (start, end): (window[0, start] + window[1, end]).item()
            for start in range(1, 12)
            for end in range(start, 12)
        }
        assert (found[0], found[1]) == max(scores, key=scores.__getitem__)
        assert found[2] == pytest.approx(max(scores.values()))


def test_long_windows_need_no_table_of_all_pairs() -> None:
    """Of 100,000 tokens that would have 40 GB."""
    logits = torch.zeros(1, 2, 100_000)
    logits[0, 0, 70_000] = logits[0, 1, 80_000] = 1.0
    assert best_spans(logits).tolist() == [[70_000, 80_000, 2.0, 0.0]]
