"""Which weights a method trains, what it costs, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from support.senses import sound_model
from support.trainer_runs import TINY_BERT, TINY_GPT, finetune_run
from troika_api.v1alpha1.run import RUN
from troika_trainer.errors import ConfigError
from troika_trainer.flops import flop_counter
from troika_trainer.method import Adapter, Built, apply_method, check_machine, refuse_adapter
from troika_trainer.runfile import Run

FRESH = frozenset(
    {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
)


def bert() -> PreTrainedModel:
    config = AutoConfig.for_model(**as_keywords(TINY_BERT), vocab_size=100, num_labels=2)
    auto: Any = AutoModelForSequenceClassification
    model: PreTrainedModel = auto.from_config(config)
    return model


def gpt() -> PreTrainedModel:
    auto: Any = AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(
        AutoConfig.for_model(**as_keywords(TINY_GPT), vocab_size=100)
    )
    return model


def as_keywords(config: Any) -> dict[str, Any]:
    return dict(config)


def run_with(tmp_path: Path, **method: Any) -> Run:
    return RUN.validate_python(finetune_run(tmp_path, model=tmp_path / "base", method=method))


def applied(tmp_path: Path, model: PreTrainedModel, **method: Any) -> Adapter | None:
    kind = "text-generation" if "gpt2" in model.config.model_type else "text-classification"
    built = Built(model, FRESH if kind == "text-classification" else frozenset())
    return apply_method(run_with(tmp_path, **method), built, pipeline_tag=kind)


def trained(model: nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def test_full_trains_everything(tmp_path: Path) -> None:
    model = bert()
    assert applied(tmp_path, model, type="Full") is None
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_frozen_trains_the_head_and_what_the_start_weights_had_not(tmp_path: Path) -> None:
    model = bert()
    assert applied(tmp_path, model, type="Frozen") is None
    assert trained(model) == FRESH


def test_frozen_is_refused_where_there_is_no_head(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="GPT2LMHeadModel has none"):
        applied(tmp_path, gpt(), type="Frozen")


def test_lora_trains_adapters_and_whatever_is_new(tmp_path: Path) -> None:
    model = bert()
    adapter = applied(tmp_path, model, type="LoRA", rank=4)
    assert adapter is not None
    names = trained(model)
    lora = {name for name in names if "lora_" in name}
    assert len(lora) == 2 * 2 * 2  # layers, query and value, A and B
    assert {name.replace("modules_to_save.default.", "") for name in names - lora} == FRESH
    assert {weight.shape for name, weight in model.named_parameters() if "lora_A" in name} == {
        (4, 32)
    }


def test_lora_starts_where_the_model_is(tmp_path: Path) -> None:
    model: Any = gpt().eval()  # type: ignore[no-untyped-call]
    ids = torch.arange(12)[None]
    before = model(input_ids=ids).logits
    applied(tmp_path, model, type="LoRA")
    torch.testing.assert_close(model.eval()(input_ids=ids).logits, before)


def test_all_linear_reaches_every_layer_of_the_body(tmp_path: Path) -> None:
    model = bert()
    applied(tmp_path, model, type="LoRA", targets=["all-linear"])
    adapted = {name.split(".lora_A")[0] for name in trained(model) if "lora_A" in name}
    assert len(adapted) == 2 * 6  # query, key, value, output, two of the feed-forward


def test_unknown_targets_are_refused_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method.targets \['q_prj'\]") as failure:
        applied(tmp_path, bert(), type="LoRA", targets=["q_prj"])
    assert "query" in str(failure.value.remedy)


def test_an_architecture_that_peft_does_not_know_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bert()
    monkeypatch.setattr(type(model.config), "model_type", "brandnew")
    with pytest.raises(ConfigError, match="no defaults for brandnew") as failure:
        applied(tmp_path, model, type="LoRA")
    assert "query" in str(failure.value.remedy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_qlora_without_a_gpu_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"QLoRA needs a CUDA GPU") as failure:
        check_machine(run_with(tmp_path, type="QLoRA"))
    assert "LoRA" in str(failure.value.remedy)


def test_an_adapter_on_sound_is_saved_with_the_head_of_another_vocabulary(tmp_path: Path) -> None:
    start = sound_model(tmp_path / "start")
    model, info = AutoModelForCTC.from_pretrained(start, vocab_size=7, output_loading_info=True)
    run = run_with(tmp_path, type="LoRA", targets=["all-linear"])
    built = Built(model, frozenset(info["missing_keys"]))
    adapter = apply_method(run, built, pipeline_tag="automatic-speech-recognition")
    assert adapter is not None
    adapter.save_pretrained(tmp_path / "made")
    saved = load_file(tmp_path / "made" / "adapter_model.safetensors")
    whole = {name: weight.shape for name, weight in saved.items() if "lora_" not in name}
    head = "base_model.model.lm_head"
    assert whole.keys() >= {f"{head}.weight", f"{head}.bias"}
    assert whole[f"{head}.weight"][0] == 7


def test_an_adapter_is_saved_with_the_embeddings_of_a_vocabulary_that_grew(tmp_path: Path) -> None:
    model, start, made = gpt(), tmp_path / "start", tmp_path / "made"
    model.save_pretrained(start)
    model.name_or_path = str(start)
    grown = model.resize_token_embeddings(104)
    adapter = applied(tmp_path, model, type="LoRA", rank=2)
    assert adapter is not None
    adapter.save_pretrained(made)
    saved = load_file(made / "adapter_model.safetensors")
    assert torch.equal(saved["base_model.model.transformer.wte.weight"], grown.weight)


def test_an_adapter_is_no_model_to_start_from(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "/mnt/troika/models/bert"}'
    )
    with pytest.raises(ConfigError, match="adapter of pvc://models/bert"):
        refuse_adapter(str(tmp_path))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"type": "Full", "rank": 8}, "method.rank is read by LoRA and QLoRA only"),
        ({"type": "QLoRA", "merge": True}, "method.merge needs LoRA"),
    ],
)
def test_fields_that_do_not_fit_are_refused(
    tmp_path: Path, method: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_with(tmp_path, **method)


@pytest.mark.parametrize("method", ["Full", "LoRA", "Frozen"])
def test_flops_are_those_that_torch_counts(tmp_path: Path, method: str) -> None:
    """Matrix products of one step without attention; the first layers need no input gradient."""
    model = bert()
    applied(tmp_path, model, type=method)
    counter = flop_counter(model)
    assert counter
    ids = torch.arange(64).reshape(4, 16)
    labels = torch.zeros(4, dtype=torch.long)
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids, labels=labels).loss.backward()
    ours = counter.count(tokens=64, heads=4, pairs=4 * 16**2)
    assert ours == pytest.approx(counted.get_total_flops(), rel=0.12)
