"""Detection: COCO's average precision against values worked out by hand."""

from typing import Any

import numpy as np
import pytest

from troika_trainer.detection import detection_report, iou
from troika_trainer.errors import DataError
from troika_trainer.objects import objects_of
from troika_trainer.rows import Row

BOX = [10.0, 10.0, 20.0, 20.0]
SHIFTED = [14.0, 10.0, 20.0, 20.0]
"""Shares 16 x 20 of 24 x 20 with BOX: IoU 2/3, so it counts at 0.50, 0.55, 0.60 and 0.65."""


def there(*objects: list[float]) -> Any:
    return np.array(objects).reshape(-1, 5)


def found(*objects: list[float]) -> Any:
    return np.array(objects).reshape(-1, 6)


def test_overlap() -> None:
    assert iou(np.array(BOX), np.array(SHIFTED)) == pytest.approx(2 / 3)
    assert iou(np.array(BOX), np.array([50, 50, 5, 5])) == 0


def test_what_is_found_to_the_pixel_scores_one() -> None:
    truth = [there([0, *BOX], [1, 40, 40, 5, 5]), there()]
    seen = [found([0.9, 0, *BOX], [0.8, 1, 40, 40, 5, 5]), found()]
    report = detection_report(truth, seen, ["a", "b"])
    assert [report.mean, report.mean50] == pytest.approx([1, 1])
    assert [score.f1 for score in report.classes] == [1, 1]


def test_nothing_found_scores_nothing() -> None:
    report = detection_report([there([0, *BOX])], [found()], ["a"])
    assert (report.mean, report.mean50) == (0, 0)
    assert report.classes[0].recall == 0


def test_a_loose_box_counts_at_four_of_ten_thresholds() -> None:
    report = detection_report([there([0, *BOX])], [found([0.9, 0, *SHIFTED])], ["a"])
    assert report.mean50 == pytest.approx(1)
    assert report.mean == pytest.approx(0.4)


def test_a_surer_false_alarm_halves_the_precision() -> None:
    seen = [found([0.9, 0, 60, 60, 20, 20], [0.8, 0, *BOX])]
    report = detection_report([there([0, *BOX])], seen, ["a"])
    assert report.mean50 == pytest.approx(0.5)
    assert (report.classes[0].precision, report.classes[0].recall) == (0.5, 1)


def test_a_less_sure_false_alarm_costs_no_average_precision() -> None:
    seen = [found([0.8, 0, 60, 60, 20, 20], [0.9, 0, *BOX])]
    assert detection_report([there([0, *BOX])], seen, ["a"]).mean50 == pytest.approx(1)


def test_one_of_two_found_is_half_at_the_101_points_of_coco() -> None:
    truth = [there([0, *BOX], [0, 60, 60, 20, 20])]
    report = detection_report(truth, [found([0.9, 0, *BOX])], ["a"])
    assert report.mean50 == pytest.approx(51 / 101)


def test_a_second_box_on_the_same_object_is_a_false_alarm() -> None:
    truth = [there([0, *BOX], [0, 60, 60, 20, 20])]
    seen = [found([0.9, 0, *BOX], [0.8, 0, *BOX], [0.7, 0, 60, 60, 20, 20])]
    report = detection_report(truth, seen, ["a"])
    # Recall up to 0.5 at precision 1, the rest at 2/3.
    assert report.mean50 == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert report.classes[0].precision == pytest.approx(2 / 3)


def test_the_right_box_of_the_wrong_class_is_none_and_classes_without_objects_do_not_count() -> (
    None
):
    report = detection_report([there([0, *BOX])], [found([0.9, 1, *BOX])], ["a", "b"])
    assert report.mean == 0
    right = detection_report([there([0, *BOX])], [found([0.9, 0, *BOX])], ["a", "b"])
    assert right.mean == pytest.approx(1)


def test_the_text_of_a_report_names_every_class() -> None:
    text = detection_report([there([0, *BOX])], [found([0.9, 0, *BOX])], ["cat", "dog"]).as_text()
    assert "cat" in text
    assert "mAP50" in text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "got list"),
        ({"bbox": []}, "got the keys bbox"),
        ({"bbox": [BOX], "category": []}, "1 boxes and 0 categories"),
        ({"bbox": [[1, 2, 3]], "category": ["a"]}, r"got the box \[1, 2, 3\]"),
        ({"bbox": [[1, 2, 0, 4]], "category": ["a"]}, "has no area"),
    ],
)
def test_objects_that_are_none_are_refused(value: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        objects_of(Row({"objects": value}, "rows.jsonl", 4), "objects")
    assert "rows.jsonl, line 4, column 'objects'" in str(caught.value)


def test_objects_have_a_name_and_a_box() -> None:
    row = Row({"objects": {"bbox": [[1, 2, 3, 4]], "category": [7]}}, "rows.jsonl", 1)
    assert objects_of(row, "objects") == [("7", [1.0, 2.0, 3.0, 4.0])]
