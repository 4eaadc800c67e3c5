"""A corpus of several formats, runs that stream it, and what one of them has read."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet

from troika_api.v1alpha1.run import RUN, PretrainRun
from troika_trainer.sources import Sources
from troika_trainer.stream import Stream
from troika_trainer.tasks import Task, task_class

from .trainer_runs import calm, pretrain_run

LENGTH = 8
TEXTS = [f"row {number} " + "and so on " * (number % 7) for number in range(300)]


def write_corpus(folder: Path) -> str:
    """Three files of three formats, one of them with empty rows."""
    folder.mkdir(exist_ok=True)
    first, second, third = TEXTS[:90], [*TEXTS[90:200], "  "], TEXTS[200:]
    with gzip.open(folder / "a.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps({"text": text}) for text in first) + "\n\n")
    table = pa.Table.from_pylist([{"text": text} for text in second])
    parquet.write_table(table, folder / "b.parquet", row_group_size=30)
    (folder / "c.csv").write_text("text\n" + "\n".join(third))
    return f"{folder}/*"


def stream_run(folder: Path, **data: Any) -> PretrainRun:
    spec = {"train": {"uri": write_corpus(folder / "corpus"), "format": "Auto"}, **data}
    changes = {"sequenceLength": LENGTH, "streaming": True, **spec}
    run = pretrain_run(folder, objective="CausalLM", data=changes)
    made = RUN.validate_python(run)
    assert isinstance(made, PretrainRun)
    return made


class Reading:
    """A task that counts the rows that it turns to tokens, and its stream."""

    def __init__(self, run: PretrainRun, tokenizer: Any, *, window: int) -> None:
        self.rows = 0
        self.task: Task = task_class(run)(run, tokenizer)
        encode = self.task.encode

        def counting(rows: Any) -> Any:
            self.rows += len(rows)
            return encode(rows)

        self.task.encode = counting  # type: ignore[method-assign]
        self.stream = Stream(
            self.task, Sources.of(run), window=window, length=LENGTH, seed=17, alive=calm
        )

    def sequences(self, start: int, stop: int) -> list[list[int]]:
        at = (number * LENGTH for number in range(start, stop))
        return [self.stream.slice(token, token + LENGTH).tolist() for token in at]
