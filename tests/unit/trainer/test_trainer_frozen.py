"""Frozen weights are cast once, to what autocast would cast them to, and exported as they came."""

import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from support.trainer_runs import finetune_run, pretrain_run, train_here
from troika_trainer import loop
from troika_trainer.frozen import cast_frozen, restore_frozen
from troika_trainer.garbage import STEPS_BETWEEN, collected_on_schedule


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    train_here(pretrain_run(folder))
    return folder / "model"


TRAINED = ("classifier", "bert.pooler")
"""Parts that the pretrained model does not have."""


def classifier(path: Path) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForSequenceClassification.from_pretrained(path)
    return model


def test_only_frozen_products_are_cast_and_all_comes_back(pretrained: Path) -> None:
    model = classifier(pretrained)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name.startswith(TRAINED))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    cast_frozen(model, torch.bfloat16)
    cast = {name for name, w in model.named_parameters() if w.dtype is torch.bfloat16}
    assert cast == {
        name
        for name in before
        if "embeddings" not in name and "LayerNorm" not in name and not name.startswith(TRAINED)
    }
    restore_frozen(model, lambda: classifier(pretrained))
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]), name


def test_a_weight_that_an_embedding_shares_stays_as_it_is() -> None:
    embedding, output = torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8)
    output.weight = embedding.weight
    model = torch.nn.Sequential(embedding, output).requires_grad_(requires_grad=False)
    cast_frozen(model, torch.bfloat16)
    assert embedding.weight.dtype is torch.float32
    assert output.bias.dtype is torch.bfloat16


LORA = {"type": "LoRA", "rank": 4}
METHODS = [{"type": "Frozen"}, LORA, {**LORA, "merge": True}]


@pytest.mark.parametrize("method", METHODS, ids=["frozen", "adapter", "merged"])
def test_casting_changes_neither_losses_nor_what_is_exported(
    tmp_path: Path,
    pretrained: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: dict[str, object],
) -> None:
    changes = {"method": method, "training": {"precision": "BF16"}}
    cast = train_here(finetune_run(tmp_path / "cast", model=pretrained, **changes))
    monkeypatch.setattr(loop, "cast_frozen", lambda *_: None)
    plain = train_here(finetune_run(tmp_path / "plain", model=pretrained, **changes))
    assert cast.losses == plain.losses
    mine, theirs = (exported(tmp_path / way / "model") for way in ("cast", "plain"))
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        assert weight.dtype is torch.float32, name
        assert torch.equal(weight, theirs[name]), name


def exported(path: Path) -> dict[str, torch.Tensor]:
    adapter = path / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else path / "model.safetensors")


def test_garbage_is_collected_on_schedule_only() -> None:
    class Ring:
        def __init__(self) -> None:
            self.me = self

    def rings() -> int:
        return sum(isinstance(thing, Ring) for thing in gc.get_objects())

    with collected_on_schedule() as collect:
        assert not gc.isenabled()
        Ring()
        collect(STEPS_BETWEEN + 1)
        assert rings() == 1
        collect(2 * STEPS_BETWEEN)
        assert rings() == 0
    assert gc.isenabled()
