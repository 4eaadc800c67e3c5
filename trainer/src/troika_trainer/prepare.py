"""Bring preprocessor and data to where every rank can open them."""

import io
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from troika_api.v1alpha1.run import PretrainRun

from . import data
from .batch import Examples
from .distributed import Group
from .encode import Alive, counted
from .errors import ConfigError
from .integrity import write_durably
from .lineage import PREPROCESSOR, TRAIN, VALIDATION, Lineage, digest_of, lineage
from .loading import lacks_package
from .preprocessor import Preprocessing
from .rows import Row
from .runfile import Run, local_or_hub
from .shards import Store
from .sources import Sources
from .stream import DEFAULT_WINDOW, TEXT, Stream, held_out
from .tasks import Task, task_class
from .tasks.base import Numbers

log = logging.getLogger(__name__)

ROWS_FOR_A_TOKENIZER = 1_000_000
"""Of a stream, which may take days to read to its end."""


@dataclass(frozen=True)
class Cache:
    """Directories on storage that all ranks share, filled by the first of them."""

    shared: Path
    """For what depends on nothing but what its name is a fingerprint of: other jobs may use it."""
    own: Path
    """For what belongs to this run."""
    group: Group
    alive: Alive
    """Called at every sign of progress."""

    def once(self, name: str, fill: Callable[[Path], None]) -> Path:
        """A directory of this name, filled now or by an earlier run.

        The first start of a job reads all of one that is there. The others would do it again and
        again, and a large corpus takes long: they find what is missing or cut short.
        """
        directory, place = self.shared / name, self.group.place
        first = place.attempt == 0 and place.restart == 0
        self.group.wait_for_first(
            lambda: data.make_directory(directory, fill, self.alive, thorough=first)
        )
        return directory


@dataclass(frozen=True)
class Prepared:
    """A task that knows its data."""

    task: Task
    stores: dict[str, Store]
    """By split."""
    lineage: Lineage
    """What a checkpoint has to share with this run."""
    digests: Mapping[str, str]
    """Of the content of every split; of none that is streamed."""


def prepare_task(run: Run, cache: Cache) -> Prepared:
    """Make or load the preprocessor, encode the data once, and open every split.

    Raises:
        DataError: the data is not what the run promised.
        ConfigError: there is no usable preprocessor.
    """
    kind = task_class(run)
    sources = Sources.of(run, together=_together(run, kind))
    try:
        preprocessor = _preprocessor(run, kind.preprocessing, sources, cache)
    except ImportError as error:
        raise lacks_package(
            f"the {kind.preprocessing.name}",
            run.model.path or "",
            error,
            remedy="use an image that has the package, or a model that does without",
        ) from error
    task = kind(run, preprocessor)
    if isinstance(run, PretrainRun) and run.data.streaming:
        # The files are compared by the stream itself, which knows its place in them.
        tokens = {PREPROCESSOR: kind.preprocessing.fingerprint(preprocessor)}
        stores = _stream(run, task, sources, cache.alive)
        return Prepared(task, stores, lineage(run, tokens), {})
    read_later = {"cache", "packing", "sequence_length", "streaming", "shuffle_window"}
    key = data.fingerprint(
        sources.identity(),
        kind.preprocessing.fingerprint(preprocessor),
        run.data.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=read_later),
        kind.__name__,
    )
    directory = cache.once(
        f"data-{key}",
        lambda staged: data.write_splits(staged, sources=sources, task=task, alive=cache.alive),
    )
    stores = data.open_splits(directory, task)
    digests = {split: digest_of(directory, split) for split in stores}
    task.arrange(
        stores,
        lambda kind, facts, fill: cache.once(f"{kind}-{data.fingerprint(key, *facts)}", fill),
    )
    # What is only tested on has no part in the weights.
    content = {TRAIN: digests["train"], VALIDATION: digests["validation"]}
    return Prepared(task, stores, lineage(run, content), digests)


def _together(run: Run, kind: type[Task]) -> list[str]:
    """Columns in which rows that are alike are held out together."""
    if isinstance(run, PretrainRun):
        return []
    return [getattr(run.data.columns, part) for part in kind.held_out_by]


def _stream(run: PretrainRun, task: Task, sources: Sources, alive: Alive) -> dict[str, Store]:
    """Training rows without end, and as many held-out ones as are looked at."""
    spec, training = run.data, run.training
    window = spec.shuffle_window or max(DEFAULT_WINDOW, training.global_batch_size)
    stream = Stream(
        task,
        sources,
        window=window,
        length=spec.sequence_length,
        seed=training.seed,
        alive=alive,
    )
    enough = run.evaluation.max_sequences * spec.sequence_length
    return {
        "train": Store.of({TEXT: stream}, {"split": "train"}),
        "validation": held_out(task, sources, tokens=enough, alive=alive),
    }


def first_look(
    prepared: Prepared,
    splits: dict[str, Examples],
    cache: Cache,
    measure: Callable[[Examples], Numbers],
) -> None:
    """Let the task look at every split with the model as the run starts.

    What it sees is kept: a later attempt needs no pass over the data, and sees the same even where
    the start weights have changed on disk since.
    """
    for name, examples in splits.items():
        key = data.fingerprint(prepared.lineage, prepared.digests.get(name))
        file = cache.own / f"first-look-{name}-{key}.npy"
        prepared.task.first_look(
            examples,
            lambda split, file=file: _kept(file, split, cache, measure),  # type: ignore[misc]
        )


def _kept(
    file: Path, examples: Examples, cache: Cache, measure: Callable[[Examples], Numbers]
) -> Numbers:
    kept = cache.group.from_first(lambda: _read_whole(file))
    if kept is None:
        kept = measure(examples)  # by all ranks together, which all have the result
        cache.group.from_first(lambda: _write_whole(file, kept))
    return kept


def _read_whole(file: Path) -> Numbers | None:
    """What was kept; None where there is nothing, or no more than a part of it."""
    try:
        kept: Numbers = np.load(file)
    except FileNotFoundError:
        return None
    except (ValueError, EOFError) as error:
        log.warning("%s is damaged and made again: %s", file, error)
        return None
    return kept


def _write_whole(file: Path, array: Numbers) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, array)
    write_durably(file, content.getvalue())


def _preprocessor(run: Run, kind: Preprocessing, sources: Sources, cache: Cache) -> Any:
    recipe = kind.recipe(run)
    if recipe is not None:
        streaming = isinstance(run, PretrainRun) and run.data.streaming
        limit = ROWS_FOR_A_TOKENIZER if streaming else None
        key = data.fingerprint(sources.identity(), recipe, *([limit] if limit else []))

        def rows() -> Iterator[Row]:
            return itertools.islice(counted(sources.rows("train"), cache.alive), limit)

        def make(staged: Path) -> None:
            kind.make(run, rows).save_pretrained(staged)

        return kind.load(str(cache.once(f"{kind.name}-{key}", make)), trust_remote_code=False)
    path = kind.path(run)
    if path is None:
        raise ConfigError(f"model: a model from a config brings no {kind.name}; name one by path")

    def load() -> Any:
        return kind.load(local_or_hub(path), trust_remote_code=run.model.trust_remote_code)

    # Where it comes from the hub the first rank downloads it, and the others find it on disk.
    cache.group.wait_for_first(load)
    return load()
