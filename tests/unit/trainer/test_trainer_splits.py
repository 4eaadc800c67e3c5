"""A share of the training rows is held out: what belongs together stays on one side."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from support.senses import detection_model, image_model
from support.tiny_tasks import finetune_run, tiny_model, write_rows
from support.trainer_runs import pretrain_run
from troika_api.v1alpha1.method import Loss
from troika_api.v1alpha1.run import RUN
from troika_trainer.distributed import Group
from troika_trainer.errors import DataError
from troika_trainer.place import Place
from troika_trainer.prepare import Cache, prepare_task
from troika_trainer.shards import Store
from troika_trainer.sources import Sources
from troika_trainer.tasks import Task
from troika_trainer.tasks.classes import (
    class_counts,
    class_facts,
    with_more_classes,
)
from troika_trainer.tasks.ranking import Ranking
from troika_trainer.tasks.token_classification import TokenClassification
from troika_trainer.tasks.weighing import Weighing
from troika_trainer.tokenizer import load_tokenizer

Rows = Iterable[dict[str, Any]]


def prepared(
    folder: Path,
    task: str,
    rows: Rows,
    *,
    validation: Rows | None = None,
    loss: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
) -> tuple[Task, dict[str, Store]]:
    """The splits of a job that names a training file, and perhaps one for validation."""
    splits = {"train": write_rows(folder / "rows.jsonl", rows)}
    if validation is not None:
        splits["validation"] = write_rows(folder / "held.jsonl", validation)
    model = START.get(task, words)(folder / "start")
    made = finetune_run(folder, task=task, model=model, splits=splits, data=data or {})
    made["loss"] = loss or {}
    group = Group(Place(), torch.device("cpu"))
    cache = Cache(folder / "cache", folder / "cache", group, lambda: None)
    found = prepare_task(RUN.validate_python(made), cache)
    return found.task, found.stores


def words(folder: Path) -> Path:
    return tiny_model(folder, ["a question about the text of number"])


def vit(folder: Path) -> Path:
    save_image(folder.parent)
    return image_model(folder, side=8)


def yolos(folder: Path) -> Path:
    save_image(folder.parent)
    return detection_model(folder)


def save_image(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "image.png")


START = {"ImageClassification": vit, "ObjectDetection": yolos}


def candidates() -> list[dict[str, Any]]:
    return [
        {"asked": query, "history": "text", "candidate": f"number {rank}", "relevance": rank % 2}
        for query in range(200)
        for rank in range(5)
    ]


def test_held_out_rows_stay_held_out_whatever_joins_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"row {number}"}) for number in range(400)]
    run = RUN.validate_python(
        pretrain_run(tmp_path, data={"train": {"uri": str(path), "format": "Auto"}})
    )
    sides = []
    for part in (lines[:200], lines):
        path.write_text("\n".join(part))
        sources = Sources.of(run)
        sides.append([{row.values["text"] for row in sources.rows(s)} for s in sources.splits])
    (train, held), (more_train, more_held) = sides
    assert train <= more_train
    assert held <= more_held
    assert not more_train & more_held
    assert 20 < len(more_held) < 60, "about a tenth"


def test_all_candidates_of_a_query_are_on_one_side(tmp_path: Path) -> None:
    task, stores = prepared(tmp_path, "Ranking", candidates(), data={"columns": {"query": "asked"}})
    train, held = (set(task.examples(stores[s]).query.tolist()) for s in ("train", "validation"))  # type: ignore[attr-defined]
    assert not train & held
    assert len(train | held) == 200
    assert 8 < len(held) < 40, "about a tenth"
    assert len(stores["validation"]) == 5 * len(held)


def test_a_query_is_the_same_one_as_a_number_and_as_text(tmp_path: Path) -> None:
    rows = [
        {**row, "asked": row["asked"] if row["relevance"] else str(row["asked"])}
        for row in candidates()
    ]
    task, stores = prepared(tmp_path, "Ranking", rows, data={"columns": {"query": "asked"}})
    train, held = (set(task.examples(stores[s]).query.tolist()) for s in ("train", "validation"))  # type: ignore[attr-defined]
    assert not train & held


def test_a_history_is_cut_at_its_beginning_also_by_an_attempt_that_encodes_nothing(
    tmp_path: Path,
) -> None:
    """Its tokenizer is the one that is exported, and that readers cut histories with."""
    model, splits = words(tmp_path / "start"), {"train": tmp_path / "rows.jsonl"}
    run = RUN.validate_python(finetune_run(tmp_path, task="Ranking", model=model, splits=splits))
    task = Ranking(run, load_tokenizer(str(model), trust_remote_code=False))
    assert task.tokenizer.truncation_side == "left"


def test_all_questions_on_a_context_are_on_one_side(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"question {number}",
            "context": f"the text number {context}",
            "answers": {"text": ["text"], "answer_start": [4]},
        }
        for context in range(200)
        for number in range(5)
    ]
    task, stores = prepared(tmp_path, "QuestionAnswering", rows)
    train, held = (
        {context for _, context, _ in task.examples(stores[split]).asked()}  # type: ignore[attr-defined]
        for split in ("train", "validation")
    )
    assert not train & held
    assert len(train | held) == 200
    assert 8 < len(held) < 40, "about a tenth"


def test_what_is_held_out_together_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    """Else a job would read splits that were made in another way."""
    train = write_rows(tmp_path / "rows.jsonl", candidates())
    run = RUN.validate_python(
        finetune_run(tmp_path, task="Ranking", model=tmp_path, splits={"train": train})
    )
    found = [Sources.of(run, together=columns).identity() for columns in ([], ["asked"], ["x"])]
    assert len({json.dumps(identity) for identity in found}) == 3


OFTEN, RARE = ("good", "bad"), [f"rare{number}" for number in range(100)]
"""Of a hundred labels with a row each, the hash holds out about ten; the two others are in both."""


def labelled(names: Iterable[str]) -> list[dict[str, Any]]:
    """Rows that every task with labels can read, each with one of these."""
    return [
        {
            "text": f"the text {name} {number}",
            "label": name,
            "labels": ["good", name],
            "tokens": ["the", "text", str(number)],
            "tags": ["O", "B-good", f"B-{name}"],
            "image": "image.png",
            "objects": {"bbox": [[1, 1, 4, 4]], "category": [name]},
        }
        for number, name in enumerate(names)
    ]


BY_LABEL = {
    "one": ("TextClassification", {}),
    "many": ("TextClassification", {"columns": {"label": "labels"}}),
    "tags": ("TokenClassification", {}),
    "image": ("ImageClassification", {}),
    "objects": ("ObjectDetection", {}),
}
of_every_kind = pytest.mark.parametrize(("kind", "data"), BY_LABEL.values(), ids=BY_LABEL)


@of_every_kind
def test_a_label_that_only_held_out_rows_have_is_known(
    tmp_path: Path, kind: str, data: dict[str, Any]
) -> None:
    task, stores = prepared(tmp_path, kind, labelled([*OFTEN * 20, *RARE]), data=data)
    assert len(stores["validation"]) > 8
    known = task.types if isinstance(task, TokenClassification) else task.names  # type: ignore[attr-defined]
    assert set(known) == {*OFTEN, *RARE}
    assert list(known) == sorted(known), "in an order that does not depend on the side"


@of_every_kind
def test_a_label_that_only_a_named_file_has_is_refused(
    tmp_path: Path, kind: str, data: dict[str, Any]
) -> None:
    """The user made this split, and one of the two files is not what they think."""
    with pytest.raises(DataError, match=r"held\.jsonl, line 2, .*'odd' is not among those of the"):
        prepared(
            tmp_path,
            kind,
            labelled(OFTEN * 20),
            validation=labelled(["good", "odd"]),
            data=data,
        )


def test_balance_is_that_of_the_training_rows(tmp_path: Path) -> None:
    rows = labelled([*["good"] * 90, *["bad"] * 30, *RARE])
    balanced = {"classWeighting": "Balanced"}
    task, stores = prepared(tmp_path, "TextClassification", rows, loss=balanced)
    counts = class_counts(stores["train"].facts)
    assert sum(counts.values()) == len(stores["train"])
    assert sum(not counts[name] for name in RARE) > 4, "held out"
    train, held_out = (task.examples(stores[split]) for split in ("train", "validation"))
    seen = np.bincount(train.labels, minlength=len(counts))  # type: ignore[attr-defined]
    assert seen.tolist() == list(counts.values())
    assert not all(seen[held_out.labels]), "and labelled all the same"  # type: ignore[attr-defined]


def test_a_class_without_training_rows_changes_nothing_for_the_others() -> None:
    facts = class_facts({"good": 90, "bad": 30, "scarce": 1}, "label")
    balanced = Loss(class_weighting="Balanced")
    before = factors(Weighing(balanced, class_counts(facts)), 3)
    more = with_more_classes(facts, ["rare", "good"])
    after = factors(Weighing(balanced, class_counts(more)), 4)
    bad, good, scarce = before
    assert after == pytest.approx([bad, good, scarce, scarce], rel=1e-5), "rare is as if scarce"


def factors(weighing: Weighing, classes: int) -> list[float]:
    """How much more than in evaluation a row of each class counts in training."""
    found = []
    for number in range(classes):
        logits, label = torch.zeros(1, classes), torch.tensor([number])
        train, plain = (weighing.loss(logits, label, training=side) for side in (True, False))
        found.append(float(train / plain))
    return found
