"""Classes that are numbers in the data have the names that the run or the file gives them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pytest
import torch
from pyarrow import parquet

from support.tiny_tasks import finetune_run, tiny_model, write_rows
from troika_api.v1alpha1.data import FileFormat
from troika_api.v1alpha1.run import RUN
from troika_trainer.distributed import Group
from troika_trainer.errors import DataError
from troika_trainer.objects import objects_of
from troika_trainer.place import Place
from troika_trainer.prepare import Cache, Prepared, prepare_task
from troika_trainer.rows import Row, find_files, read_rows
from troika_trainer.tasks.texts import ValuedTexts
from troika_trainer.tasks.token_classification import TaggedTexts, TokenClassification

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-EVENT", "I-EVENT"]
"""Not in the order of the letters, and no row has the last two."""
SENTENCES: list[dict[str, Any]] = [
    {"tokens": ["Ada", "Lovelace", "wrote"], "ner_tags": [1, 2, 0]},
    {"tokens": ["London", "sleeps"], "ner_tags": [3, 0]},
]
TOPICS = ["world", "sports", "business"]
COLUMNS = {"columns": {"tags": "ner_tags"}}


def class_label(names: list[str]) -> dict[str, Any]:
    return {"num_classes": len(names), "names": names, "_type": "ClassLabel"}


def write_parquet(path: Path, rows: list[dict[str, Any]], features: Any = None) -> Path:
    """A table as the datasets library writes it, with what it says of the columns beside it."""
    table = pa.Table.from_pylist(rows)
    if features is not None:
        said = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(said)
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
    return path


def prepared(folder: Path, task: str, train: Path, **data: Any) -> Prepared:
    """A job that names one file, also for validation."""
    model = tiny_model(folder / "start", ["Ada Lovelace wrote of London that sleeps"])
    splits = {"train": train, "validation": train}
    made = finetune_run(folder, task=task, model=model, splits=splits, data=data)
    group = Group(Place(), torch.device("cpu"))
    cache = Cache(folder / "cache", folder / "cache", group, lambda: None)
    return prepare_task(RUN.validate_python(made), cache)


def tags_of(found: Prepared) -> list[list[str]]:
    task, examples = found.task, found.task.examples(found.stores["train"])
    assert isinstance(task, TokenClassification)
    assert isinstance(examples, TaggedTexts)
    return [[task.names[tag] for tag in examples.tags(index)] for index in range(len(examples))]


@pytest.mark.parametrize(
    "feature",
    [
        {"feature": class_label(TAGS), "length": -1, "_type": "Sequence"},
        {"feature": class_label(TAGS), "_type": "List"},
        [class_label(TAGS)],
    ],
)
def test_tags_have_the_names_that_stand_in_the_file(tmp_path: Path, feature: Any) -> None:
    file = write_parquet(tmp_path / "a.parquet", SENTENCES, {"ner_tags": feature})
    found = prepared(tmp_path, "TokenClassification", file, **COLUMNS)
    assert tags_of(found) == [["B-PER", "I-PER", "O"], ["B-LOC", "O"]]
    names = found.task.model_settings()["id2label"]
    assert names == dict(enumerate(TAGS)), "with the numbers of the data, rows or not"


@pytest.mark.parametrize("written", [list, lambda tags: " ".join(map(str, tags))])
def test_tags_have_the_names_that_the_job_tells(tmp_path: Path, written: Any) -> None:
    rows = [{**row, "ner_tags": written(row["ner_tags"])} for row in SENTENCES]
    file = write_rows(tmp_path / "a.jsonl", rows)
    found = prepared(tmp_path, "TokenClassification", file, labels=TAGS, **COLUMNS)
    assert tags_of(found) == [["B-PER", "I-PER", "O"], ["B-LOC", "O"]]
    assert found.task.model_settings()["id2label"] == dict(enumerate(TAGS))


def test_what_the_job_tells_counts_more_than_the_file(tmp_path: Path) -> None:
    features = {"label": class_label(["0", "1", "2"])}
    rows = [{"text": f"row {number}", "label": number} for number in (2, 0)]
    file = write_parquet(tmp_path / "a.parquet", rows, features)
    found = prepared(tmp_path, "TextClassification", file, labels=TOPICS)
    assert found.task.model_settings()["id2label"] == dict(enumerate(TOPICS))


def test_tags_that_nobody_names_are_refused_with_their_place(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", SENTENCES)
    with pytest.raises(DataError) as refused:
        prepared(tmp_path, "TokenClassification", file, **COLUMNS)
    said = f"{refused.value} {refused.value.remedy}"
    assert f"{file}, line 1, column 'ner_tags': tag 0 is 1, and nothing says what" in said
    assert "data.labels, such as [O, B-PER, I-PER" in said


def test_classes_of_texts_have_the_names_and_numbers_of_the_file(tmp_path: Path) -> None:
    rows = [{"text": f"row {number}", "label": number} for number in (2, 0, 2)]
    file = write_parquet(tmp_path / "a.parquet", rows, {"label": class_label(TOPICS)})
    found = prepared(tmp_path, "TextClassification", file)
    assert found.task.model_settings()["id2label"] == dict(enumerate(TOPICS))
    examples = found.task.examples(found.stores["train"])
    assert isinstance(examples, ValuedTexts)
    assert examples.labels.tolist() == [2, 0, 2]


def test_many_classes_of_a_text_have_names_too(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "both", "label": [0, 2]}, {"text": "none", "label": []}]
    features = {"label": {"feature": class_label(TOPICS), "_type": "Sequence"}}
    file = write_parquet(tmp_path / "a.parquet", rows, features)
    found = prepared(tmp_path, "TextClassification", file)
    assert found.task.model_settings()["id2label"] == dict(enumerate(TOPICS))
    assert found.stores["train"].facts["counts"] == [1, 0, 1]


def test_numbers_of_a_csv_file_have_names(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text,label\nshares,2\nballs,sports\n")
    found = prepared(tmp_path, "TextClassification", file, labels=TOPICS)
    assert found.stores["train"].facts["counts"] == [0, 1, 1]


@pytest.mark.parametrize("label", [-1, 3, "weather"])
def test_a_class_that_has_no_name_is_refused_with_its_place(tmp_path: Path, label: Any) -> None:
    rows = [{"text": "shares", "label": 2}, {"text": "balls", "label": label}]
    file = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError) as refused:
        prepared(tmp_path, "TextClassification", file, labels=TOPICS)
    assert f"{file}, line 2, column 'label': expected a number from 0 to 2, or its name" in str(
        refused.value
    )
    assert "world, sports, business" in str(refused.value)


def test_numbers_without_names_are_names(tmp_path: Path) -> None:
    rows = [{"text": f"row {number}", "label": number} for number in (10, 9)]
    file = write_parquet(tmp_path / "a.parquet", rows, {"label": {"_type": "Value"}})
    found = prepared(tmp_path, "TextClassification", file)
    assert found.task.model_settings()["id2label"] == {0: "9", 1: "10"}


def test_objects_have_the_names_of_the_file(tmp_path: Path) -> None:
    value = {"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [1]}
    parts = {"bbox": {"_type": "Sequence"}, "category": class_label(["cat", "dog"])}
    features = {"objects": {"feature": parts, "_type": "Sequence"}}
    file = write_parquet(tmp_path / "a.parquet", [{"objects": value}], features)
    (row,) = read_rows(find_files(str(file), FileFormat.AUTO)[0])
    assert objects_of(row, "objects") == [("dog", [1.0, 2.0, 3.0, 4.0])]


@pytest.mark.parametrize("said", [b"{}", b"no JSON", b'{"info": {"features": [1]}}', b"[1]"])
def test_what_is_no_description_of_columns_names_nothing(tmp_path: Path, said: bytes) -> None:
    table = pa.Table.from_pylist([{"label": 1}]).replace_schema_metadata({"huggingface": said})
    parquet.write_table(table, tmp_path / "a.parquet")
    (row,) = read_rows(find_files(str(tmp_path / "a.parquet"), FileFormat.AUTO)[0])
    assert row.label("label") == "1"


def test_truth_values_are_no_numbers() -> None:
    row = Row({"label": True}, "rows.jsonl", 1)
    assert row.label("label") == "True"
    with pytest.raises(DataError, match="got bool true"):
        row.label("label", TOPICS)
