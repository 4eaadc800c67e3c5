"""Build the model of a run: an architecture from its configuration, or weights that exist."""

import logging
import re

import torch
from transformers import (
    AutoConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from troika_api.v1alpha1.run import FinetuneRun, PretrainRun

from .configuration import configuration, first_line
from .errors import ConfigError
from .loading import cannot_load
from .method import Built, loading_options, refuse_adapter
from .packing import first_position
from .runfile import Run, local_or_hub
from .tasks import Task
from .tokenizer import Tokenizers

log = logging.getLogger(__name__)


def build_model(run: Run, task: Task) -> PreTrainedModel:
    """The model that `build` makes."""
    return build(run, task).model


def build(run: Run, task: Task) -> Built:
    """The model in float32 on the CPU, ready for its task. The same on every rank.

    Raises:
        ConfigError: transformers has no such architecture, field or head, or the text is too long.
    """
    torch.manual_seed(run.training.seed)
    built = Built(_fresh(run, task)) if run.model.path is None else _loaded(run, task)
    if isinstance(task.preprocessing, Tokenizers):
        _check_length(run, built.model, task.tokenizer)
    return built


def _fresh(run: Run, task: Task) -> PreTrainedModel:
    fields = run.model.config or {}
    config = configuration(fields, task)
    _set_dropout(config, run, task)
    _keep_all_layers(config)
    try:
        model: PreTrainedModel = task.auto_model.from_config(config, dtype=torch.float32)
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        if type(config) in task.auto_model._model_mapping:  # noqa: SLF001 - how from_config asks
            raise ConfigError(f"model.config cannot be built: {first_line(error)}") from error
        raise ConfigError(
            f"model.config.model_type {fields['model_type']!r} has no head for "
            f"{type(task).__name__}"
        ) from error
    return model


def _set_dropout(config: PretrainedConfig, run: Run, task: Task) -> None:
    """Architectures call it hidden_dropout_prob, resid_pdrop, dropout_rate, ..."""
    asked = run.training.dropout
    dropout = task.dropout if asked is None else asked
    if dropout is None:
        return
    text = config.get_text_config()
    fields = [name for name in text.to_dict() if re.search(r"dropout|pdrop", name)]
    fields = [name for name in fields if isinstance(getattr(text, name), int | float | None)]
    if not fields and asked is not None:
        raise ConfigError(
            f"training.dropout: {config.model_type} models have no dropout", "leave it out"
        )
    for name in fields:
        setattr(text, name, dropout)


def _keep_all_layers(config: PretrainedConfig) -> None:
    """No layer is dropped at random: it would be another one on each rank.

    The parts of a sharded layer are gathered by all ranks or by none, and a run should not depend
    on the number of its ranks.
    """
    for name, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            _keep_all_layers(value)
        elif name.endswith("layerdrop") and value:
            log.info("no layer is dropped", extra={"field": f"{config.model_type}.{name}"})
            setattr(config, name, 0.0)


def _loaded(run: Run, task: Task) -> Built:
    path, trusted = local_or_hub(run.model.path or ""), run.model.trust_remote_code
    refuse_adapter(path)
    try:
        config = AutoConfig.from_pretrained(
            path, trust_remote_code=trusted, **task.model_settings()
        )
        _set_dropout(config, run, task)
        _keep_all_layers(config)
        model, info = task.auto_model.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=trusted,
            # A head for other classes or characters is a new one; the body's shape is its own.
            ignore_mismatched_sizes=isinstance(run, FinetuneRun),
            output_loading_info=True,
            **loading_options(run),
        )
    except (OSError, ValueError) as error:
        raise cannot_load(
            "the model",
            run.model.path or "",
            error,
            remedy="name a directory that holds config.json and model.safetensors",
        ) from error
    task.preprocessing.check(task.preprocessor, model.config, run.model.path or "")
    names = {name for name, _ in model.named_parameters()}
    fresh = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    return Built(model, frozenset(fresh & names))


def longest_input(model: PreTrainedModel) -> int | None:
    """Positions that the model can tell apart, or None where there is no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return None
    return int(limit) - first_position(model)


def _check_length(run: Run, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    limit = longest_input(model)
    if isinstance(run, PretrainRun):
        field, wanted = "sequenceLength", run.data.sequence_length
    else:
        field, wanted = "maxLength", min(run.data.max_length, tokenizer.model_max_length)
    if limit is not None and wanted > limit:
        raise ConfigError(
            f"data.{field} {wanted} is longer than the {limit} positions of the model",
            f"set it to {limit} or less, or give the model more max_position_embeddings",
        )
