"""A share of the training rows is held out: what belongs together stays on one side."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from support.tiny_tasks import finetune_run, tiny_model, write_rows
from troika_api.v1alpha1.run import RUN
from troika_trainer.distributed import Group
from troika_trainer.place import Place
from troika_trainer.prepare import Cache, prepare_task
from troika_trainer.shards import Store
from troika_trainer.sources import Sources
from troika_trainer.tasks import Task


def prepared(
    folder: Path, task: str, rows: Iterable[dict[str, Any]], **changes: Any
) -> tuple[Task, dict[str, Store]]:
    """The splits of a job that names a training file and nothing else."""
    train = write_rows(folder / "rows.jsonl", rows)
    model = tiny_model(folder / "start", ["a question about the text of number"])
    made = finetune_run(folder, task=task, model=model, splits={"train": train}, **changes)
    group = Group(Place(), torch.device("cpu"))
    cache = Cache(folder / "cache", folder / "cache", group, lambda: None)
    return prepare_task(RUN.validate_python(made), cache)


def candidates() -> list[dict[str, Any]]:
    return [
        {"asked": query, "history": "text", "candidate": f"number {rank}", "relevance": rank % 2}
        for query in range(200)
        for rank in range(5)
    ]


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
