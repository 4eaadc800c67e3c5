"""Which weights of a model are trained: all, an adapter beside them, or the head."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN_TARGETS
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from troika_api.contract import storage_uri
from troika_api.v1alpha1.method import ADAPTERS, DEFAULT_RANK, Method, MethodType
from troika_api.v1alpha1.run import FinetuneRun

from .errors import ConfigError
from .runfile import Run

ALL_LINEAR = "all-linear"

_PEFT_TASK = {
    "text-classification": TaskType.SEQ_CLS,
    "token-classification": TaskType.TOKEN_CLS,
    "question-answering": TaskType.QUESTION_ANS,
    "text-generation": TaskType.CAUSAL_LM,
    "text-ranking": TaskType.SEQ_CLS,
    "translation": TaskType.SEQ_2_SEQ_LM,
}
"""What peft calls the tasks that it knows, by what the hub calls them."""


@dataclass(frozen=True)
class Built:
    """A model, and what of it the start weights did not have."""

    model: PreTrainedModel
    fresh: frozenset[str] = frozenset()
    """Names of the parameters that were drawn at random, such as those of a new head."""


@dataclass(frozen=True)
class Adapter:
    """LoRA layers inside a model, which stays what it is for everybody else."""

    model: PreTrainedModel
    """The model with the adapter's layers in it."""
    peft: PeftModel
    """The same as peft sees it."""
    merge: bool

    def save_pretrained(self, directory: Path) -> None:
        """Write the adapter in peft's layout, or the whole model with the adapter merged in."""
        if self.merge:
            self.peft.merge_and_unload().save_pretrained(directory)
            return
        # "auto" saves embeddings too where the vocabulary is another than that of the base. For CTC
        # that is the head alone, and a model for sound has none that peft could ask for.
        embeddings: Any = "auto" if _embeds_tokens(self.model) else False
        self.peft.save_pretrained(str(directory), save_embedding_layers=embeddings)
        # The names of the classes are in the configuration.
        self.model.config.save_pretrained(directory)

    @property
    def base(self) -> str:
        """Where the model is that the adapter belongs to, as a user knows it."""
        return storage_uri(str(self.peft.peft_config["default"].base_model_name_or_path))


def method_of(run: Run) -> Method:
    """The method that a run asks for; pretraining trains everything."""
    return run.method if isinstance(run, FinetuneRun) else Method()


def check_machine(run: Run) -> None:
    """Whether the method can work here, before anything is loaded.

    Raises:
        ConfigError: QLoRA without a GPU or without bitsandbytes; an adapter on nothing.
    """
    method = method_of(run)
    if method.type is not MethodType.FULL and run.model.path is None:
        raise ConfigError(
            f"method.type {method.type} adapts weights that exist, and model.path is not set",
            "name the model to adapt, or use method Full",
        )
    if method.type is not MethodType.QLORA:
        return
    missing = [] if torch.cuda.is_available() else ["a CUDA GPU"]
    if importlib.util.find_spec("bitsandbytes") is None:
        missing.append("the Python package bitsandbytes")
    if missing:
        raise ConfigError(
            f"method.type QLoRA needs {' and '.join(missing)}, which this container has not",
            "use method LoRA, or an image and nodes that have both",
        )


def loading_options(run: Run) -> dict[str, Any]:
    """What `from_pretrained` must know of the method: the precision of the frozen weights."""
    if method_of(run).type is not MethodType.QLORA:
        return {}
    four_bits = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {
        "quantization_config": four_bits,
        "device_map": {"": torch.cuda.current_device()},
    }


def apply_method(run: Run, built: Built, *, pipeline_tag: str) -> Adapter | None:
    """Freeze what the method does not train, in place; give back the adapter where there is one.

    Raises:
        ConfigError: the model has no such layers, or nothing would be left to train.
    """
    method, model = method_of(run), built.model
    if method.type is MethodType.FULL:
        return None
    trained = built.fresh | _head(model)
    if method.type is MethodType.FROZEN:
        _freeze_all_but(model, trained)
        return None
    assert method.type in ADAPTERS
    return Adapter(model, _adapted(method, model, trained, pipeline_tag), method.merge)


def _embeds_tokens(model: PreTrainedModel) -> bool:
    try:
        return model.get_input_embeddings() is not None
    except NotImplementedError:
        return False


def _head(model: PreTrainedModel) -> frozenset[str]:
    """Parameters that only the task needs. An output layer over the vocabulary is no such head."""
    base = {id(weight) for weight in model.base_model.parameters()}
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if output is not None:
        base |= {id(weight) for weight in output.parameters()}
    return frozenset(name for name, weight in model.named_parameters() if id(weight) not in base)


def _freeze_all_but(model: PreTrainedModel, trained: frozenset[str]) -> None:
    if not trained:
        raise ConfigError(
            f"method.type Frozen trains the head only, and {type(model).__name__} has none "
            "besides its output over the vocabulary",
            "use method LoRA or Full",
        )
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in trained)


def _adapted(
    method: Method, model: PreTrainedModel, trained: frozenset[str], pipeline_tag: str
) -> PeftModel:
    whole = sorted({name.rpartition(".")[0] for name in trained})
    rank = method.rank or DEFAULT_RANK
    config = LoraConfig(
        task_type=_PEFT_TASK.get(pipeline_tag),
        r=rank,
        lora_alpha=method.alpha or 2 * rank,  # type: ignore[arg-type] # a factor, whole or not
        lora_dropout=method.dropout or 0.0,
        target_modules=_targets(method, model),
        modules_to_save=whole or None,
        exclude_modules=whole or None,
    )
    if method.type is MethodType.QLORA:
        from peft import prepare_model_for_kbit_training  # noqa: PLC0415 - needs bitsandbytes

        prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
            model, use_gradient_checkpointing=False
        )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(
            f"method.targets {method.targets}: {str(error).splitlines()[0][:200]}", _advice(model)
        ) from error


def _targets(method: Method, model: PreTrainedModel) -> list[str] | str:
    if method.targets == [ALL_LINEAR]:
        return ALL_LINEAR
    if method.targets:
        return method.targets
    known = KNOWN_TARGETS.get(model.config.model_type)
    if known is None:
        raise ConfigError(
            f"method.targets is not set, and peft knows no defaults for {model.config.model_type}",
            _advice(model),
        )
    return list(known)


def _advice(model: nn.Module) -> str:
    """The names that would work, most frequent first."""
    names = [
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    often = sorted(set(names), key=lambda name: -names.count(name))[:12]
    return f"set method.targets to some of {', '.join(often)}, or to [{ALL_LINEAR}]"


def refuse_adapter(path: str) -> None:
    """An adapter alone is no model to start from.

    Raises:
        ConfigError: the directory holds one.
    """
    file = Path(path) / "adapter_config.json"
    if file.is_file():
        base = json.loads(file.read_text()).get("base_model_name_or_path")
        raise ConfigError(
            f"{path} holds an adapter of {storage_uri(str(base))}, not a whole model",
            "train it again with method.merge: true, or start from the model it belongs to",
        )
