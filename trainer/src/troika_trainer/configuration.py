"""The configuration of a new model: what transformers would take in silence is refused in words."""

import copy
import difflib
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig
from typing_extensions import override

from .errors import ConfigError
from .tasks import Task


def configuration(fields: Mapping[str, Any], task: Task) -> PretrainedConfig:
    """Of an architecture, its sizes, and what the task and its preprocessor imply.

    Args:
        fields: `model.config` of the run.
        task: What the model is for.

    Raises:
        ConfigError: transformers has no such architecture or field, or refuses a value.
    """
    given = dict(fields)
    kind = given.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(kind), list(CONFIG_MAPPING), n=3, cutoff=0.5)
        raise ConfigError(
            f"model.config.model_type {kind!r} is not an architecture of transformers",
            f"did you mean {' or '.join(near)}?" if near else "see transformers' list of models",
        )
    known = CONFIG_MAPPING[kind]()
    declared = {*known.to_dict(), *known.attribute_map}
    others = [name for name in given if name not in declared and not hasattr(known, name)]
    implied = task.preprocessing.model_settings(task.preprocessor, given, known)
    try:
        config = AutoConfig.for_model(kind, **{**implied, **task.model_settings(), **given})
    except (TypeError, ValueError, ZeroDivisionError, StrictDataclassError) as error:
        told = f"model.config cannot be built: {first_line(error.__cause__ or error)}"
        # A misspelt field may be why the values do not go together.
        raise ConfigError(told, _meant(others, declared)) from error
    if others:
        _refuse_unknown(others, declared, config, task)
    return config


def first_line(error: BaseException) -> str:
    """What transformers says of a value, without its advice on code."""
    line = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {line}"


def _refuse_unknown(
    others: Iterable[str], declared: set[str], config: PretrainedConfig, task: Task
) -> None:
    """Transformers takes any field in silence; a misspelt one would be a default unnoticed.

    Some fields have an effect although no configuration class declares them: models ask for them
    with a default (`head_dim` of Qwen3-MoE), classes take them and keep something else
    (`rope_theta` of Llama).
    """
    asked = _asked(config, task)
    for name in others:
        if name not in asked and not _taken(name, config):
            raise ConfigError(
                f"model.config.{name} is not a field of {type(config).__name__}",
                _meant([name], declared | asked),
            )


def _meant(names: Iterable[str], known: Iterable[str]) -> str | None:
    near = [difflib.get_close_matches(name, sorted(known), n=1) for name in names]
    found = [match for matches in near for match in matches]
    return f"did you mean {' and '.join(found)}?" if found else None


def _taken(name: str, config: PretrainedConfig) -> bool:
    """Whether a class has made something of a field, in place of keeping it as it was given.

    What every class takes is no part of an architecture: settings of generation, for instance.
    """
    given: dict[str, Any] = {name: None}
    return name not in vars(config) and name in vars(PretrainedConfig(**given))


def _asked(config: PretrainedConfig, task: Task) -> set[str]:
    """What an architecture's own code asks its configuration for while a model is built.

    Built without memory. What transformers asks of every model is left out: a job has fields of its
    own for that (`gradient_checkpointing`, `quantization_config`).
    """
    kind, asked = type(config), set[str]()

    class Watched(kind):  # type: ignore[misc,valid-type]
        @override
        def __getattribute__(self, name: str) -> Any:
            caller = sys._getframe(1).f_globals["__name__"]  # noqa: SLF001 - who asks
            if caller.startswith("transformers.models.") and not name.startswith("_"):
                asked.add(name)
            return super().__getattribute__(name)

    watched = copy.deepcopy(config)
    watched.__class__ = Watched
    with suppress(Exception), torch.device("meta"):  # the build that counts tells what is wrong
        found = task.auto_model._model_mapping[kind]  # noqa: SLF001 - how from_config asks
        model = found[0] if isinstance(found, tuple) else found
        model(watched)
    return asked
