"""What a row may hold beside what was meant: it is named, or does no harm."""

from pathlib import Path

import pytest

from troika_api.v1alpha1.data import FileFormat
from troika_trainer.errors import DataError
from troika_trainer.rows import Row, find_files, read_rows
from troika_trainer.tasks.classes import class_facts
from troika_trainer.tasks.conversation import messages_in


def rows_of(folder: Path, content: str) -> list[Row]:
    (folder / "a.jsonl").write_text(content)
    return list(read_rows(find_files(str(folder), FileFormat.AUTO)[0]))


def test_half_a_character_is_named(tmp_path: Path) -> None:
    """As is left where a text was cut within an emoji."""
    whole, half = rows_of(tmp_path, '{"text": "\\ud83d\\ude00"}\n{"text": "cut \\ud83d"}\n')
    assert whole.text("text") == "😀"
    with pytest.raises(DataError) as caught:
        half.text("text")
    assert str(caught.value) == (
        f"{tmp_path}/a.jsonl, line 2, column 'text': expected whole characters, got \\ud83d, "
        "half of one"
    )


def test_half_a_character_does_no_harm_where_nobody_reads_it(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, '{"text": "fine", "talk": ["\\uD83D"]}\n')
    assert row.text("text") == "fine"
    with pytest.raises(DataError, match="line 1, column 'talk': expected whole characters"):
        messages_in(row, "talk", role="user")


def test_a_row_that_nests_too_deeply_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 1: expected one JSON object a line: "):
        rows_of(tmp_path, '{"text": ' + "[" * 100_000)


def test_a_number_that_no_float_holds_is_named() -> None:
    row = Row({"score": 10**400}, "rows.jsonl", 3)
    with pytest.raises(DataError, match=r"rows\.jsonl, line 3, column 'score': expected a number"):
        row.number("score")


def test_what_only_looks_like_a_whole_number_is_a_label_like_others() -> None:
    labels = ["b", "--5", "²", "10", "-3", "9" * 5000, "2"]
    found = class_facts(dict.fromkeys(labels, 1), "label")["labels"]
    assert found == ["-3", "2", "10", "--5", "9" * 5000, "b", "²"]


def test_more_digits_than_a_number_may_have_are_none_of_the_classes_that_have_names() -> None:
    row = Row({"label": "9" * 5000}, "rows.jsonl", 3)
    with pytest.raises(DataError, match=r"line 3, column 'label': expected a number from 0 to 1"):
        row.label("label", ["bad", "good"])
