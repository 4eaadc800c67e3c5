"""Bring tokenizer and data to where every rank can open them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from troika_api.v1alpha1.data import TokenizerTraining
from troika_api.v1alpha1.run import PretrainRun

from . import data, tokenizer
from .distributed import Group
from .errors import ConfigError
from .rows import text_column
from .runfile import Run, local_or_hub
from .shards import Store
from .tasks import Task, task_class


@dataclass(frozen=True)
class Cache:
    """A directory on storage that all ranks share, filled by the first of them."""

    directory: Path
    group: Group
    alive: data.Alive
    """Called at every sign of progress."""

    def once(self, name: str, fill: Callable[[Path], None]) -> Path:
        """A directory of this name, filled now or by an earlier run."""
        directory = self.directory / name
        attempt = self.group.place.attempt
        self.group.wait_for_first(lambda: data.make_directory(directory, fill, attempt=attempt))
        return directory


def prepare_task(run: Run, cache: Cache) -> tuple[Task, dict[str, Store]]:
    """Train or load the tokenizer, tokenize the data once, and open every split.

    Raises:
        DataError: the data is not what the run promised.
        ConfigError: there is no usable tokenizer.
    """
    kind = task_class(run)
    sources = data.Sources.of(run)
    words = _tokenizer(run, kind, sources, cache)
    task = kind(run, words)
    key = data.fingerprint(
        sources.identity(), tokenizer.fingerprint(words), run.data.wire(), kind.__name__
    )
    directory = cache.once(
        f"data-{key}",
        lambda staged: data.write_splits(staged, sources=sources, task=task, alive=cache.alive),
    )
    return task, data.open_splits(directory, task)


def _tokenizer(
    run: Run, kind: type[Task], sources: data.Sources, cache: Cache
) -> PreTrainedTokenizerFast:
    spec = run.tokenizer.train if isinstance(run, PretrainRun) else None
    if spec is not None:
        directory = _trained(run, kind, sources, cache, spec)
        return tokenizer.load_tokenizer(str(directory), trust_remote_code=False)
    named = run.tokenizer.path if isinstance(run, PretrainRun) else None
    path = named or run.model.path
    if path is None:
        raise ConfigError("tokenizer: set train or path, for a model from a config brings none")

    def load() -> PreTrainedTokenizerFast:
        trusted = run.model.trust_remote_code
        return tokenizer.load_tokenizer(local_or_hub(path), trust_remote_code=trusted)

    # Where it comes from the hub the first rank downloads it, and the others find it on disk.
    cache.group.wait_for_first(load)
    return load()


def _trained(
    run: Run, kind: type[Task], sources: data.Sources, cache: Cache, spec: TokenizerTraining
) -> Path:
    algorithm = spec.algorithm or kind.tokenizer_algorithm
    column = run.data.train.column

    def texts() -> Iterator[str]:
        rows = data.counted(sources.rows("train"), cache.alive)
        return (row.text(text_column(row, column)) for row in rows)

    def train(staged: Path) -> None:
        made = tokenizer.train_tokenizer(
            texts, spec, algorithm=algorithm, bidirectional=kind.bidirectional
        )
        made.save_pretrained(staged)

    key = data.fingerprint(sources.identity(), column, spec.wire(), algorithm, kind.bidirectional)
    return cache.once(f"tokenizer-{key}", train)
