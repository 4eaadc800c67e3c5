"""A look at the files before torch is loaded: what is wrong with them most often is seen at once.

The ranks find the same mistakes, and many more; but they need half a minute and more to get there.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic.alias_generators import to_snake

from troika_api.v1alpha1.run import FinetuneRun
from troika_api.v1alpha1.tasks import TASKS, Task

from .errors import StorageError
from .loading import lacks_directory, no_directory
from .rows import Row, text_column
from .runfile import Run
from .sources import Sources

log = logging.getLogger(__name__)

OTHERWISE = {Task.CHAT: ("messages", "prompt", "completion"), Task.PREFERENCE: ("prompt",)}
"""Columns that may be missing, because the task finds what it needs in others then."""


def look(run: Run) -> None:
    """Find the model, the files of every split, and in the first row of each the columns.

    Raises:
        ConfigError: the model or the tokenizer is not there.
        StorageError: the checkpoints or the model could not be written in the end.
        DataError: a file or a column is not there, or a split has no rows.
    """
    for field, uri in (("checkpoint.uri", run.checkpoint.uri), ("output.uri", run.output.uri)):
        if uri.startswith("/") and (closed := _closed(Path(uri))):
            raise StorageError(
                f"{field} {uri}: {closed} cannot be written by user {os.geteuid()}",
                "give that user or the pods' fsGroup the right to, or name another place",
            )
    tokenizer = None if isinstance(run, FinetuneRun) else run.tokenizer.path
    for what, path in (("the model", run.model.path), ("the tokenizer", tokenizer)):
        if path is not None and lacks_directory(path):
            raise no_directory(what, path)
    try:
        _read(run)
    except StorageError as error:
        # It may pass: the ranks ask again, and are started again in place.
        log.warning("could not look at the data: %s", error)


def _read(run: Run) -> None:
    sources = Sources.of(run)
    for split in sources.splits:
        if split == "validation" and not sources.validation:
            continue  # a share of the training rows; the first of it may be far away
        row = next(sources.rows(split), None)
        if row is None:
            raise sources.empty(split)
        for column in _columns(run, split, row):
            row.value(column)


def _closed(path: Path) -> Path | None:
    """The folder that would have to be written to make this one, if it cannot be."""
    nearest = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK, effective_ids=True):
        return None
    return nearest


def _columns(run: Run, split: str, row: Row) -> Iterator[str]:
    """The columns that a row of the split has to have."""
    if not isinstance(run, FinetuneRun):
        source = run.data.validation if split == "validation" else run.data.train
        yield text_column(row, source.column)
        return
    for role in TASKS[run.task].columns:
        name: str | None = getattr(run.data.columns, to_snake(role))
        if name is not None and role not in OTHERWISE.get(run.task, ()):
            yield name
