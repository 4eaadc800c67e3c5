"""Tags are learnt from real data in seconds, whatever form they have, and a wrong one is named."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from pyarrow import parquet
from transformers import AutoConfig, pipeline

from support.real_data import real_data
from support.tiny_tasks import (
    SPLITS,
    Rows,
    fast,
    finetune_run,
    rows_of,
    tiny_model,
    trained,
    try_launch,
    written,
)
from troika_api.contract import ExitCode, FailureClass


def everything_a_name(rows: list[dict[str, Any]]) -> float:
    """F1 of who reads nothing and calls every word a name of the class that earns most by it."""
    tags = [tag for row in rows for tag in [*row["tags"], "O"]]
    whole = Counter(
        tag
        for tag, following in pairwise(tags)
        if tag.startswith("B-") and not following.startswith("I-")
    )
    names = sum(tag.startswith("B-") for tag in tags)
    words = len(tags) - len(rows)
    return float(2 * max(whole.values()) / (words + names))


def test_names_are_found_in_tweets(tmp_path: Path) -> None:
    """Baselines: to call no word a name, f1 0, and to call every word one, about 0.01.

    Accuracy is no bar: of 100 words 95 are no names.
    """
    folder = real_data("ner") / "ner"
    rows = {split: rows_of(folder / f"{split}.jsonl") for split in SPLITS}
    texts = [" ".join(row["tokens"]) for row in rows["train"]]
    run = finetune_run(
        tmp_path,
        task="TokenClassification",
        model=tiny_model(tmp_path / "base", texts, num_hidden_layers=1),
        splits=written(tmp_path, rows),
        training=fast(epochs=8),
    )
    outcome = trained(tmp_path, run)
    assert outcome.scores["f1"] > everything_a_name(rows["test"]) + 0.07
    assert outcome.scores["f1"] == pytest.approx(outcome.report["report"]["micro"]["f1"])
    assert {score["name"] for score in outcome.report["report"]["classes"]} >= {"person", "geo-loc"}
    assert outcome.word.evaluation
    assert len(outcome.word.evaluation.classes) == 10
    assert outcome.word.evaluation.split == "test"
    assert "micro avg" in outcome.text
    tagger = pipeline("token-classification", model=str(outcome.model))
    found = {
        item["entity"] for row in rows["test"][:60] for item in tagger(" ".join(row["tokens"]))
    }
    assert found
    assert all(tag[:2] in ("B-", "I-") for tag in found)


def test_tags_that_are_numbers_train_as_their_names_do(tmp_path: Path) -> None:
    """In Parquet, with names as the datasets library writes them beside the table."""
    folder = real_data("ner") / "ner"
    rows = {split: rows_of(folder / f"{split}.jsonl", 160) for split in SPLITS}
    base = tiny_model(
        tmp_path / "base",
        (" ".join(row["tokens"]) for row in rows["train"]),
        num_hidden_layers=1,
    )
    found = {tag for part in rows.values() for row in part for tag in row["tags"]}
    names = [
        "O",
        *(f"{mark}-{kind}" for kind in sorted({tag[2:] for tag in found} - {""}) for mark in "BI"),
    ]
    runs: dict[str, dict[str, Any]] = {
        "named": {"splits": written(tmp_path / "named", rows), "data": {"labels": names}},
        "numbered": {"splits": numbered(tmp_path / "numbered", rows, names)},
    }
    outcomes = [
        trained(
            tmp_path / name,
            finetune_run(
                tmp_path / name,
                task="TokenClassification",
                model=base,
                training=fast(epochs=1),
                **changes,
            ),
        )
        for name, changes in runs.items()
    ]
    assert outcomes[0].report["history"] == outcomes[1].report["history"]
    config = AutoConfig.from_pretrained(outcomes[1].model)
    assert config.id2label == dict(enumerate(names))


def numbered(folder: Path, rows: Rows, names: list[str]) -> dict[str, Path]:
    """The rows as tables whose tags are numbers, which the file names."""
    feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "Sequence"}
    said = {"huggingface": json.dumps({"info": {"features": {"tags": feature}}})}
    folder.mkdir(parents=True)
    for split, part in rows.items():
        table = pa.Table.from_pylist(
            [{**row, "tags": [names.index(tag) for tag in row["tags"]]} for row in part]
        )
        parquet.write_table(table.replace_schema_metadata(said), folder / f"{split}.parquet")
    return {split: folder / f"{split}.parquet" for split in rows}


def test_a_wrong_tag_ends_the_run_with_its_place(tmp_path: Path) -> None:
    good = {"tokens": ["Ada", "Lovelace", "wrote"], "tags": ["B-person", "I-person", "O"]}
    bad = {"tokens": ["in", "London"], "tags": ["O", "I-city"]}
    rows = {"train": [good, good, bad], "validation": [good], "test": [good]}
    run = finetune_run(
        tmp_path,
        task="TokenClassification",
        model=tiny_model(tmp_path / "base", ["Ada Lovelace wrote in London"]),
        splits=written(tmp_path, rows),
    )
    done, word = try_launch(tmp_path, run)
    assert done.returncode == ExitCode.BAD_DATA
    assert word.failure is FailureClass.BAD_DATA
    assert f"{tmp_path}/train.jsonl, line 3, column 'tags': tag 1 is 'I-city'" in word.message
    assert "expected B-city" in word.message
