"""FP8: close to the exact products, refused where the hardware has none, and never with an MFU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from support.trainer_runs import pretrain_run, train_here
from troika_api.v1alpha1.training import Precision
from troika_trainer.errors import ConfigError
from troika_trainer.float8 import Float8Linear, use_float8
from troika_trainer.flops import flop_counter, peak_flops


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float(((found.float() - exact).norm() / exact.norm()).detach())


@pytest.mark.parametrize("rows", [16, 35])
def test_a_product_and_its_gradients_are_close_to_the_exact_ones(rows: int) -> None:
    torch.manual_seed(0)
    exact, linear = nn.Linear(128, 256), nn.Linear(128, 256)
    linear.load_state_dict(exact.state_dict())
    linear.__class__ = Float8Linear
    inputs = [torch.randn(rows, 128, requires_grad=True)]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    outputs = [exact(inputs[0]), linear(inputs[1])]
    assert outputs[1].dtype is torch.bfloat16
    assert error(outputs[1], outputs[0]) < 0.05
    gradient = torch.randn(rows, 256)
    for output in outputs:
        output.backward(gradient.to(output.dtype))
    assert inputs[0].grad is not None
    assert inputs[1].grad is not None
    assert error(inputs[1].grad, inputs[0].grad) < 0.08
    for right, found in zip(exact.parameters(), linear.parameters(), strict=True):
        assert right.grad is not None
        assert found.grad is not None
        assert found.grad.dtype is torch.float32
        assert error(found.grad, right.grad) < 0.08


def test_no_weight_is_kept_in_8_bits_until_the_backward_pass() -> None:
    """FSDP gathers it again; kept, each rank would hold the whole model."""
    linear = nn.Linear(128, 256)
    linear.__class__ = Float8Linear
    kept: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        linear(torch.randn(32, 128, requires_grad=True))
    assert any(tensor is linear.weight for tensor in kept)
    in_8_bits = [tensor.shape for tensor in kept if tensor.dtype is torch.float8_e4m3fn]
    assert in_8_bits == [(32, 128)], "what the layer was given"


def bert(width: int) -> Any:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=256,
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=2 * width,
        )
    )


def test_layers_compute_in_8_bits_and_heads_do_not() -> None:
    model = bert(128)
    before, weights = flop_counter(model), list(model.state_dict())
    use_float8(model)
    names = [name for name, module in model.named_modules() if isinstance(module, Float8Linear)]
    assert len(names) == 2 * 6
    assert all(name.startswith("bert.encoder.layer.") for name in names)
    assert list(model.state_dict()) == weights
    assert flop_counter(model) == before


def test_a_frozen_layer_passes_the_gradient_on_and_gets_none() -> None:
    model = bert(128)
    use_float8(model)
    for weight in model.bert.encoder.parameters():
        weight.requires_grad_(requires_grad=False)
    model(input_ids=torch.ones(1, 5, dtype=torch.long)).logits.sum().backward()
    assert model.bert.embeddings.word_embeddings.weight.grad.abs().sum() > 0
    assert model.bert.encoder.layer[0].intermediate.dense.weight.grad is None


def test_a_model_too_narrow_for_it_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"BertForMaskedLM has no linear layers of at least 128"):
        use_float8(bert(32))


@pytest.mark.slow
def test_a_whole_run_learns_as_one_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, which computes the same numbers slowly: only its refusal is left out."""
    config = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1}
    small = {"model": {"config": config}, "evaluation": {"maxSequences": 2}}
    losses = []
    monkeypatch.setattr("troika_trainer.float8.check_device", lambda _training: None)
    for precision in ("BF16", "FP8"):
        training = {"precision": precision, "steps": 3, "globalBatchSize": 2}
        run = pretrain_run(tmp_path / precision, training=training, **small)
        losses.append(train_here(run).losses)
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_packed_rows_are_tried_before_rounding_blurs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("troika_trainer.float8.check_device", lambda _training: None)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda _module: None)  # it takes half a minute
    config = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1}
    run = pretrain_run(
        tmp_path,
        training={"precision": "FP8", "steps": 2, "globalBatchSize": 2},
        model={"config": config},
        data={"packing": True},
        evaluation={"maxSequences": 2},
    )
    assert len(train_here(run).losses) == 2


def test_the_cpu_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"FP8 needs NVIDIA GPUs .* this container has the CPU"):
        train_here(pretrain_run(tmp_path, training={"precision": "FP8"}))
    assert not (tmp_path / "checkpoints").exists()


def test_an_older_gpu_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA A100-SXM4-80GB")
    with pytest.raises(ConfigError, match=r"NVIDIA A100-SXM4-80GB \(compute capability 8.0\)"):
        train_here(pretrain_run(tmp_path, training={"precision": "FP8"}))


def test_there_is_no_peak_to_compare_with_under_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    """And without a peak there is no utilisation: test_trainer_telemetry.py."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA H100 80GB HBM3")
    device = torch.device("cuda", 0)
    assert peak_flops(device, Precision.BF16) == 989e12
    assert peak_flops(device, Precision.FP8) is None
