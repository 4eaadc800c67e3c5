"""Bring tokenizer and data to where every rank can open them."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from troika_api.v1alpha1.run import PretrainRun

from . import data, tokenizer
from .distributed import Group
from .runfile import Run
from .shards import Store
from .tasks import Task, task_class

HUB = "hf://"


def local_or_hub(path: str) -> str:
    """What `from_pretrained` takes: a directory, or OWNER/NAME for hf://OWNER/NAME."""
    return path.removeprefix(HUB)


def prepare_task(
    run: Run, *, cache: Path, group: Group, alive: data.Alive
) -> tuple[Task, dict[str, Store]]:
    """Train or load the tokenizer, tokenize the data once, and open it.

    Args:
        run: What to train.
        cache: Directory on storage that all ranks share.
        group: The ranks; the first does the work.
        alive: Called at every sign of progress.

    Raises:
        DataError: the data is not what the run promised.
        ConfigError: there is no usable tokenizer.
    """
    kind = task_class(run)
    sources = data.Sources.of(run)
    words = _tokenizer(run, kind, sources, cache=cache, group=group, alive=alive)
    task = kind(run, words)
    key = data.fingerprint(
        sources.identity(), tokenizer.fingerprint(words), run.data.wire(), kind.__name__
    )
    directory = cache / f"data-{key}"
    group.wait_for_first(
        lambda: data.make_directory(
            directory,
            lambda staged: data.write_splits(staged, sources=sources, task=task, alive=alive),
        )
    )
    return task, data.open_splits(directory, task)


def _tokenizer(
    run: Run,
    kind: type[Task],
    sources: data.Sources,
    *,
    cache: Path,
    group: Group,
    alive: data.Alive,
) -> PreTrainedTokenizerFast:
    spec = run.tokenizer.train if isinstance(run, PretrainRun) else None
    named = run.tokenizer.path if isinstance(run, PretrainRun) else None
    if spec is None:
        path = named or run.model.path
        if path is None:
            raise tokenizer.ConfigError("tokenizer: set train or path, for the model has none")
        trusted = run.model.trust_remote_code
        # The first rank downloads; the others then find it on disk.
        group.wait_for_first(lambda: _load_and_forget(local_or_hub(path), trusted))
        return tokenizer.load_tokenizer(local_or_hub(path), trust_remote_code=trusted)
    algorithm = spec.algorithm or kind.tokenizer_algorithm
    key = data.fingerprint(sources.identity(), spec.wire(), algorithm, kind.bidirectional)
    directory = cache / f"tokenizer-{key}"

    def train(staged: Path) -> None:
        column = run.data.train.column
        texts = (
            row.text(column if column in row.values else "text") for row in sources.rows("train")
        )
        made = tokenizer.train_tokenizer(
            texts, spec, algorithm=algorithm, bidirectional=kind.bidirectional
        )
        made.save_pretrained(staged)
        alive()

    group.wait_for_first(lambda: data.make_directory(directory, train))
    return tokenizer.load_tokenizer(str(directory), trust_remote_code=False)


def _load_and_forget(path: str, trusted: bool) -> None:  # noqa: FBT001
    tokenizer.load_tokenizer(path, trust_remote_code=trusted)
