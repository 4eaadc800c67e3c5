"""Read run.json, and say in words what is wrong with it."""

import os
from pathlib import Path

from pydantic import ValidationError

from troika_api import contract
from troika_api.v1alpha1.method import MethodType
from troika_api.v1alpha1.run import RUN, FinetuneRun, Objective, PretrainRun
from troika_api.v1alpha1.training import AUTO, Precision, Sharding

from .errors import ConfigError

HUB = "hf://"

Run = PretrainRun | FinetuneRun


def find_run_file(arguments: list[str]) -> Path:
    """The path given, else the one in the environment, else where the operator mounts it."""
    if len(arguments) > 1:
        raise ConfigError(f"expected one run file, got {len(arguments)}: {' '.join(arguments)}")
    named = arguments[0] if arguments else os.environ.get(contract.ENV_RUN_FILE)
    return Path(named or contract.RUN_FILE)


def read_run(path: Path) -> Run:
    """Parse and check the run.

    Raises:
        ConfigError: one line per mistake, each with the path of its field.
    """
    try:
        run = RUN.validate_json(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the run file {path}: {error.strerror}") from error
    except ValidationError as error:
        lines = [f"{_field(item['loc'])}: {item['msg']}" for item in error.errors()]
        raise ConfigError(f"{path} is not a valid run: " + "; ".join(lines)) from error
    _check(run)
    return run


def _field(location: tuple[int | str, ...]) -> str:
    """`training.steps` from ('PretrainJob', 'training', 'steps'): tags of unions are no fields."""
    tags = ("PretrainJob", "FinetuneJob", "constrained-int", f"literal['{AUTO}']")
    parts = [str(part) for part in location if part not in tags]
    return ".".join(parts) or "the file"


def _check(run: Run) -> None:
    """The rules between fields that the CRD states in CEL, for run files written by hand."""
    length = [run.training.steps, run.training.tokens, run.training.epochs]
    if sum(value is not None for value in length) != 1:
        raise ConfigError("training: set exactly one of steps, tokens and epochs")
    if (run.model.config is None) == (run.model.path is None):
        raise ConfigError("model: set exactly one of config and path")
    if isinstance(run, PretrainRun) and run.tokenizer.train and run.model.path:
        raise ConfigError(
            "tokenizer.train: the weights of model.path know another vocabulary",
            "leave tokenizer out to use the one in model.path",
        )
    validation = run.data.validation
    if (validation.uri is None) == (validation.fraction is None):
        raise ConfigError("data.validation: set exactly one of uri and fraction")
    if isinstance(run, PretrainRun):
        _check_stream(run)
    micro, total = run.training.micro_batch_size, run.training.global_batch_size
    if isinstance(micro, int) and micro > total:
        raise ConfigError(
            f"training.microBatchSize {micro} must not be larger than globalBatchSize {total}"
        )
    if isinstance(run, FinetuneRun) and run.method.type is MethodType.QLORA:
        if run.training.sharding is not Sharding.NONE:
            raise ConfigError(
                "training.sharding: QLoRA cannot be sharded: weights in 4 bits have no parts",
                "use method LoRA with FSDP",
            )
        if run.training.precision is Precision.FP8:
            raise ConfigError(
                "training.precision: QLoRA computes in BF16: its weights are in 4 bits already"
            )


def _check_stream(run: PretrainRun) -> None:
    window = run.data.shuffle_window
    if window is not None and not run.data.streaming:
        raise ConfigError("data.shuffleWindow is read with data.streaming only", "leave it out")
    if window is not None and window < run.training.global_batch_size:
        raise ConfigError(
            f"data.shuffleWindow {window} must be at least globalBatchSize "
            f"{run.training.global_batch_size}"
        )
    if run.data.streaming and run.objective is Objective.MASKED_IMAGE:
        raise ConfigError(
            "data.streaming reads text, and MaskedImage has none", "leave data.streaming out"
        )
    if run.data.streaming and run.training.epochs is not None:
        raise ConfigError(
            "data.streaming: a stream has no epochs", "set training.steps or training.tokens"
        )


def local_or_hub(path: str) -> str:
    """What `from_pretrained` takes: a directory, or OWNER/NAME for hf://OWNER/NAME.

    Raises:
        ConfigError: it is somewhere else.
    """
    name = path.removeprefix(HUB)
    if "://" in name:
        raise ConfigError(
            f"cannot load a model from {path}: expected a directory or {HUB}OWNER/NAME",
            "copy the model to a volume, or mount the store as one",
        )
    return name


def set_environment(run: Run) -> None:
    """Keep Hugging Face's libraries off the network unless the run names the hub.

    They read these variables when they are imported, so this comes first.
    """
    if HUB not in run.model_dump_json():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


SHAPES_KEPT = "128"
"""A step meets about ten products of matrices for every shape of its batches."""


def limit_caches_of_shapes() -> None:
    """Let oneDNN and torch's layer above it keep the kernels of the last shapes only.

    On a CPU each keeps 1024, with 0.3 MB for each shape of a product: batches of texts, whose
    shapes are always new, would fill them with 600 MB that nobody uses again. Both read their
    variables when torch is imported or first used.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, SHAPES_KEPT)
