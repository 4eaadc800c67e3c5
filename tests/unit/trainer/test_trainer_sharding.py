"""Parts of a model: which layers, in which precision, and whole again at the end."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)
from typing_extensions import override

from support.language_tasks import CAUSAL, SIZE, T5, batch_of, causal
from support.trainer_runs import TINY_BERT, TINY_GPT
from troika_api.v1alpha1.training import Training
from troika_trainer import optim
from troika_trainer.distributed import Group
from troika_trainer.float8 import use_float8
from troika_trainer.flops import flop_counter
from troika_trainer.layers import layers_of
from troika_trainer.model import build_model
from troika_trainer.place import Place
from troika_trainer.sharding import Sharded, whole_gradients_fit
from troika_trainer.tasks.base import Objective

TINY_T5 = {"model_type": "t5", **T5}
TINY_LLAMA = {"model_type": "llama", **SIZE, "num_hidden_layers": 3}


def built(config: dict[str, Any], auto: Any = AutoModelForCausalLM) -> Any:
    model: PreTrainedModel = auto.from_config(AutoConfig.for_model(**{"vocab_size": 64, **config}))
    return model


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        (built(TINY_BERT, AutoModelForMaskedLM), ["BertLayer"] * 2),
        (built(TINY_GPT), ["GPT2Block"] * 2),
        (built(TINY_LLAMA), ["LlamaDecoderLayer"] * 3),
    ],
    ids=["bert", "gpt2", "llama"],
)
def test_layers_are_the_blocks_that_repeat(model: PreTrainedModel, kinds: list[str]) -> None:
    assert [type(layer).__name__ for layer in layers_of(model)] == kinds


def test_a_layer_that_shares_a_weight_is_none() -> None:
    model = built(TINY_LLAMA)
    model.lm_head.weight = model.model.layers[1].mlp.gate_proj.weight
    assert layers_of(model) == [model.model.layers[0], model.model.layers[2]]


@pytest.fixture
def group() -> Iterator[Group]:
    """A process group of one rank: its parts are the whole, everything else is as on many."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield Group(Place(), torch.device("cpu"))
    dist.destroy_process_group()


class Sum(torch.nn.Module):
    """Stands where an objective does, with no task."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=ids).logits
        return logits.float().square().sum()


def sharded(model: PreTrainedModel, group: Group, precision: str = "FP32") -> tuple[Any, Sharded]:
    objective: Any = Sum(model)
    training = Training.model_validate({"steps": 1, "sharding": "FSDP", "precision": precision})
    return objective, Sharded(objective, group, training)


def test_flops_norms_and_clipping_are_those_of_the_whole_model(group: Group) -> None:
    torch.manual_seed(0)
    model = built(TINY_GPT)  # its Conv1D counts elements, which a part has fewer of
    flops, ids = flop_counter(model), torch.arange(8).reshape(1, 8)
    Sum(model)(ids).backward()
    norm = optim.gradient_norm(optim.gradients(model)).item()
    model.zero_grad()
    objective, strategy = sharded(model, group)
    assert flop_counter(model) == flops
    with strategy.exchanging(gradients=True):
        objective(ids).backward()
    grads = optim.gradients(model)
    assert all(isinstance(grad, DTensor) for grad in grads)
    found = optim.gradient_norm(grads)
    assert not isinstance(found, DTensor)
    assert found.item() == pytest.approx(norm, rel=1e-5)
    optim.scale_and_clip(grads, scale=1.0, norm=norm, clip=1.0)
    assert optim.gradient_norm(grads).item() == pytest.approx(1.0, rel=1e-4)


def test_bf16_computes_in_it_and_keeps_float32(group: Group) -> None:
    model = built(TINY_LLAMA)
    objective, strategy = sharded(model, group, precision="BF16")
    seen = []
    model.model.layers[0].register_forward_hook(lambda _m, _a, output: seen.append(output))
    with strategy.exchanging(gradients=True):
        objective(torch.arange(8).reshape(1, 8)).backward()
    output = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert output.dtype is torch.bfloat16
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert {grad.dtype for grad in optim.gradients(model)} == {torch.float32}


def test_gradients_accumulate_over_micro_batches(group: Group) -> None:
    model = built(TINY_LLAMA)
    ids = torch.arange(16).reshape(2, 8)
    Sum(model)(ids).backward()
    whole = [grad.clone() for grad in optim.gradients(model)]
    model.zero_grad()
    objective, strategy = sharded(model, group)
    for last, row in enumerate(ids):
        with strategy.exchanging(gradients=bool(last)):
            objective(row[None]).backward()
    found: list[Any] = optim.gradients(model)
    for one, other in zip(whole, found, strict=True):
        assert torch.allclose(one, other.full_tensor(), atol=1e-4)


def test_the_loss_over_the_vocabulary_is_made_without_logits_of_weights_in_parts_too(
    group: Group,
) -> None:
    """What the head reads in a forward pass is a whole weight, gathered, and no part of one."""
    task = causal({"model_type": "llama", **CAUSAL["llama"]})
    model = build_model(task.run, task).train()
    task.attach(model)
    batch = batch_of(task)
    objective: Any = Objective(model, task)
    whole = objective(batch)[0]
    whole.backward()
    expected = [grad.clone() for grad in optim.gradients(model)]
    model.zero_grad()
    strategy = Sharded(objective, group, Training(steps=1, sharding="FSDP", precision="FP32"))
    products: list[object] = []
    model.get_output_embeddings().register_forward_hook(lambda *_: products.append(1))
    with strategy.exchanging(gradients=True):
        loss = objective(batch)[0]
        loss.backward()
    assert not products, "the output layer made its logits"
    assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
    found: list[Any] = optim.gradients(model)
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one / batch.weight, other.full_tensor() / batch.weight, atol=1e-6)


def test_layers_in_8_bits_have_the_same_gradients_in_parts(group: Group) -> None:
    torch.manual_seed(0)
    wide = {"hidden_size": 128, "intermediate_size": 128}
    model, ids = built({**TINY_LLAMA, **wide}), torch.arange(32).reshape(2, 16)
    use_float8(model)
    Sum(model)(ids).backward()
    expected = [grad.clone() for grad in optim.gradients(model)]
    model.zero_grad()
    objective, strategy = sharded(model, group)
    kept: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with strategy.exchanging(gradients=True):
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = objective(ids)
        shapes = [tuple(tensor.shape) for tensor in kept if tensor.dtype is torch.float8_e4m3fn]
        assert set(shapes) == {(32, 128)}, "inputs of layers, and no weights"
        loss.backward()
    found: list[Any] = optim.gradients(model)
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other.full_tensor(), rtol=1e-4, atol=1e-4)


def test_the_first_rank_has_the_whole_model_in_the_end(group: Group) -> None:
    model = built(TINY_T5 | {"decoder_start_token_id": 0}, AutoModelForSeq2SeqLM)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, strategy = sharded(model, group)
    assert any(isinstance(weight, DTensor) for weight in model.parameters())
    strategy.collect()
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any(isinstance(weight, DTensor) for weight in model.parameters())
    assert model.encoder.embed_tokens.weight is model.shared.weight


@pytest.mark.parametrize(("memory", "whole"), [(1 << 30, True), (1 << 16, False)])
def test_micro_batches_are_reduced_where_their_gradients_would_fill_the_device(
    monkeypatch: pytest.MonkeyPatch, memory: int, whole: bool
) -> None:
    device = SimpleNamespace(total_memory=memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: device)
    model = built(TINY_LLAMA)  # 34 thousand weights
    assert whole_gradients_fit(model, torch.device("cuda")) is whole
    assert whole_gradients_fit(model, torch.device("cpu"))
