"""What the launcher sees of the data before it loads torch."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.trainer_runs import finetune_run, pretrain_run
from troika_api.v1alpha1.run import RUN
from troika_trainer import preview
from troika_trainer.errors import ConfigError, DataError, StorageError


def look(run: dict[str, Any]) -> None:
    preview.look(RUN.validate_python(run))


@pytest.fixture
def reviews(tmp_path: Path) -> dict[str, Any]:
    """A run whose files are as they should be."""
    run = finetune_run(tmp_path, model=tmp_path)
    look(run)
    return run


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_file_that_is_not_there_is_missed(reviews: dict[str, Any], split: str) -> None:
    reviews["data"][split] = {"uri": "/nowhere/rows.csv"}
    with pytest.raises(DataError, match=r"no file matches /nowhere/rows\.csv"):
        look(reviews)


def test_a_column_that_is_not_there_is_missed(reviews: dict[str, Any]) -> None:
    reviews["data"]["columns"] = {"label": "stars"}
    with pytest.raises(DataError, match=r"line 2: no column 'stars'; there are 'text', 'label'"):
        look(reviews)


def test_a_model_that_is_not_there_is_missed(reviews: dict[str, Any]) -> None:
    reviews["model"]["path"] = "/nowhere/model"
    with pytest.raises(ConfigError, match=r"the model from /nowhere/model: there is no such dir"):
        look(reviews)


@pytest.mark.parametrize("field", ["output", "checkpoint"])
def test_a_place_that_cannot_be_written_is_seen_before_days_of_training(
    reviews: dict[str, Any], field: str
) -> None:
    open_to_all = Path(tempfile.gettempdir()) / "reviews"
    for place in ("output", "checkpoint"):
        reviews[place]["uri"] = str(open_to_all / place)
    with tempfile.TemporaryDirectory() as folder, _as_nobody():
        reviews[field]["uri"] = f"{folder}/models/reviews"
        with pytest.raises(StorageError, match=rf"{field}\.uri .*: {folder} cannot be written"):
            look(reviews)


@contextlib.contextmanager
def _as_nobody() -> Iterator[None]:
    """Nothing is closed to root, which tests often are."""
    user = os.geteuid()
    if user != 0:
        pytest.skip("only root can be another user")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_where_a_folder_has_to_be_is_seen(reviews: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reviews["output"]["uri"] = str(tmp_path / "file" / "model")
    with pytest.raises(StorageError, match=r"output\.uri .*/file cannot be written"):
        look(reviews)


@pytest.mark.parametrize("content", ["", "text,label\n"], ids=["nothing", "a header alone"])
def test_files_without_rows_are_named(
    reviews: dict[str, Any], tmp_path: Path, content: str
) -> None:
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(DataError, match=r"the train split has no rows: .*train\.csv gave none"):
        look(reviews)


def test_a_share_of_the_training_rows_needs_no_file(reviews: dict[str, Any]) -> None:
    reviews["data"]["validation"] = {"fraction": 0.1}
    look(reviews)


def test_pretraining_looks_for_its_one_column(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"content": "words"}\n')
    data = {"train": {"uri": str(rows), "format": "JSONL", "column": "content"}}
    look(pretrain_run(tmp_path, data=data))
    data["train"]["column"] = "text"
    with pytest.raises(DataError, match="no column 'text'; there are 'content'"):
        look(pretrain_run(tmp_path, data=data))


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("Chat", {"messages": []}),
        ("Chat", {"prompt": "a", "completion": "b"}),
        ("Preference", {"chosen": [], "rejected": []}),
        ("Preference", {"prompt": "a", "chosen": "b", "rejected": "c"}),
    ],
)
def test_rows_that_say_it_in_another_way_are_let_through(
    tmp_path: Path, task: str, row: dict[str, Any]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(row) + "\n")
    data = {"train": {"uri": str(rows)}, "validation": {"uri": str(rows)}}
    run = finetune_run(tmp_path, model=tmp_path) | {"task": task, "data": data}
    look(run)


def test_torch_is_not_needed_for_it() -> None:
    code = "import sys; from troika_trainer import preview; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
