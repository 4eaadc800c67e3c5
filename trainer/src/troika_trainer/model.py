"""Build the model of a run: an architecture from its configuration, or weights that exist."""

import difflib
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from troika_api.v1alpha1.run import PretrainRun

from .errors import ConfigError
from .runfile import Run, local_or_hub
from .tasks import Task

_SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")


def build_model(run: Run, task: Task) -> PreTrainedModel:
    """The model in float32 on the CPU, ready for its task. The same on every rank.

    Raises:
        ConfigError: transformers has no such architecture, field or head, or the text is too long.
    """
    torch.manual_seed(run.training.seed)
    model = _fresh(run, task) if run.model.path is None else _loaded(run, task)
    _check_length(run, model, task.tokenizer)
    return model


def _fresh(run: Run, task: Task) -> PreTrainedModel:
    fields = run.model.config or {}
    config = _config(dict(fields), task.tokenizer, task.model_settings())
    try:
        model: PreTrainedModel = task.auto_model.from_config(config, dtype=torch.float32)
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        if type(config) in task.auto_model._model_mapping:  # noqa: SLF001 - how from_config asks
            raise ConfigError(f"model.config cannot be built: {_first_line(error)}") from error
        raise ConfigError(
            f"model.config.model_type {fields['model_type']!r} has no head for "
            f"{type(task).__name__}"
        ) from error
    return model


def _config(
    fields: dict[str, Any], tokenizer: PreTrainedTokenizerFast, settings: dict[str, Any]
) -> PretrainedConfig:
    kind = fields.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(kind), list(CONFIG_MAPPING), n=3, cutoff=0.5)
        raise ConfigError(
            f"model.config.model_type {kind!r} is not an architecture of transformers",
            f"did you mean {' or '.join(near)}?" if near else "see transformers' list of models",
        )
    known = CONFIG_MAPPING[kind]()
    _refuse_unknown(fields, known)
    vocabulary = len(tokenizer)
    if fields.get("vocab_size", vocabulary) < vocabulary:
        raise ConfigError(
            f"model.config.vocab_size {fields['vocab_size']} is smaller than the tokenizer's "
            f"{vocabulary}",
            "leave it out: it is taken from the tokenizer",
        )
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id", None)
        for name in _SPECIAL
        if hasattr(known, f"{name}_token_id")
    }
    try:
        return AutoConfig.for_model(
            kind, **{"vocab_size": vocabulary, **special, **settings, **fields}
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.config: {error}") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def _refuse_unknown(fields: dict[str, Any], known: PretrainedConfig) -> None:
    """Transformers takes any field in silence; a misspelt one would be a default unnoticed."""
    names = {*known.to_dict(), *known.attribute_map}
    for field in fields:
        if field not in names and not hasattr(known, field):
            near = difflib.get_close_matches(field, sorted(names), n=1)
            raise ConfigError(
                f"model.config.{field} is not a field of {type(known).__name__}",
                f"did you mean {near[0]}?" if near else None,
            )


def _loaded(run: Run, task: Task) -> PreTrainedModel:
    path = local_or_hub(run.model.path or "")
    try:
        model: PreTrainedModel = task.auto_model.from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=run.model.trust_remote_code,
            **task.model_settings(),
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot load the model from {run.model.path}: {str(error).splitlines()[0][:300]}",
            "name a directory that holds config.json and model.safetensors",
        ) from error
    vocabulary = model.config.get_text_config().vocab_size or 0
    if vocabulary < len(task.tokenizer):
        raise ConfigError(
            f"the tokenizer has {len(task.tokenizer)} tokens, the model in {run.model.path} "
            f"only {vocabulary}",
            "use the tokenizer that the model was trained with",
        )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = task.tokenizer.pad_token_id
    return model


def longest_input(model: PreTrainedModel) -> int | None:
    """Positions that the model can tell apart, or None where there is no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return None
    # RoBERTa and its kin count positions from the padding index up.
    offsets = [
        int(module.padding_idx) + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings")
        and isinstance(module, nn.Embedding)
        and module.padding_idx is not None
    ]
    return int(limit) - max([0, *offsets])


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
