"""Models from a configuration: what transformers would take in silence is refused in words."""

from typing import Any

import pytest
from transformers import PreTrainedModel

from support.language_tasks import SIZE, masked, task_for
from support.trainer_runs import TINY_BERT
from troika_trainer.errors import ConfigError
from troika_trainer.model import build_model

LLAMA = {"model_type": "llama", **SIZE}


@pytest.mark.parametrize(
    ("config", "message", "remedy"),
    [
        (
            {**TINY_BERT, "model_type": "brt"},
            "model.config.model_type 'brt' is not an architecture of transformers",
            "did you mean",
        ),
        (
            {**TINY_BERT, "hiden_size": 64},
            "model.config.hiden_size is not a field of BertConfig",
            "did you mean hidden_size?",
        ),
        (
            {**TINY_BERT, "vocab_size": 100},
            "model.config.vocab_size 100 is smaller than the tokenizer's 300",
            "leave it out",
        ),
        (
            {**TINY_BERT, "num_attention_heads": 3},
            "model.config cannot be built: ValueError: The hidden size (32) is not a multiple",
            "",
        ),
        ({**TINY_BERT, "hidden_act": "oops"}, "model.config cannot be built: KeyError: 'oops'", ""),
        (
            {**LLAMA, "num_attention_heads": 3},
            "model.config cannot be built: ValueError: The hidden size (32) is not a multiple",
            "",
        ),
        (
            {"model_type": "llama", "hidden_size": 36, "num_atention_heads": 3},
            "model.config cannot be built: ValueError: The hidden size (36) is not a multiple",
            "did you mean num_attention_heads?",
        ),
        (
            {**LLAMA, "num_attention_heads": 0},
            "model.config cannot be built: ZeroDivisionError",
            "",
        ),
        (
            {**LLAMA, "hidden_size": "x"},
            "model.config cannot be built: TypeError: Field 'hidden_size' expected int, got str",
            "",
        ),
        ({"model_type": "vit"}, "model.config.model_type 'vit' has no head for MaskedLM", ""),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    config: dict[str, Any], message: str, remedy: str
) -> None:
    task = masked(config)
    with pytest.raises(ConfigError) as caught:
        build_model(task.run, task)
    assert message in str(caught.value)
    assert remedy in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("kind", "fields", "shape"),
    [
        ("qwen3_moe", {"head_dim": 24}, [48, 32]),
        ("qwen2_moe", {"head_dim": 24}, [48, 32]),
        ("olmoe", {"head_dim": 24}, [48, 32]),
        ("deberta-v2", {"attention_head_size": 24}, [48, 32]),
        ("deberta-v2", {"conv_kernel_size": 3}, [32, 32, 3]),
    ],
)
def test_what_a_model_asks_for_is_a_field_also_where_its_class_declares_none(
    kind: str, fields: dict[str, Any], shape: list[int]
) -> None:
    task, plain = task_for(kind, **fields), task_for(kind)
    assert shape in shapes(build_model(task.run, task))
    assert shape not in shapes(build_model(plain.run, plain))


def shapes(model: PreTrainedModel) -> list[list[int]]:
    return [list(weight.shape) for weight in model.parameters()]


@pytest.mark.parametrize(
    ("kind", "fields", "rope"),
    [
        ("llama", {"rope_theta": 500000.0}, {"rope_theta": 500000.0}),
        ("llama", {"rope_theta": 10000.0}, {"rope_theta": 10000.0}),  # the default
        ("qwen3", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, {"factor": 2.0}),
    ],
)
def test_what_a_class_makes_something_of_is_a_field(
    kind: str, fields: dict[str, Any], rope: dict[str, Any]
) -> None:
    task = task_for(kind, **fields)
    assert build_model(task.run, task).config.rope_parameters.items() >= rope.items()


@pytest.mark.parametrize(
    ("kind", "field", "remedy"),
    [
        ("qwen3_moe", "head_dims", "did you mean head_dim?"),
        ("deberta-v2", "conv_kernel_sise", "did you mean conv_kernel_size?"),
        ("gpt2", "head_dim", None),  # it divides
        ("bert", "rope_theta", None),  # its positions are learnt
        ("llama", "gradient_checkpointing", None),  # asked of every model; a job's own field
        ("llama", "quantization_config", None),
        ("llama", "num_beams", None),  # of generation
        ("gpt2", "text_config", None),
    ],
)
def test_what_this_model_does_not_read_is_refused(
    kind: str, field: str, remedy: str | None
) -> None:
    task = task_for(kind, **{field: 2})
    with pytest.raises(ConfigError, match=rf"^model\.config\.{field} is not a field of ") as caught:
        build_model(task.run, task)
    assert caught.value.remedy == remedy
