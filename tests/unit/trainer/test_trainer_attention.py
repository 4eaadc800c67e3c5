"""Attention over short sequences on the CPU gives what transformers gives, in float32."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AutoModel, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from support.tinyrun import CONFIG
from troika_trainer import attention
from troika_trainer.attention import SHORT, attend, use_fast_attention


@pytest.fixture
def fast() -> Iterator[None]:
    use_fast_attention()
    yield
    AttentionInterface.register("sdpa", sdpa_attention_forward)


def parts(tokens: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(3, 2, tokens, 16).to(dtype).requires_grad_() for _ in ("query", "key", "value")
    ]


def mask(tokens: int, dtype: torch.dtype | None) -> torch.Tensor | None:
    seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]
    if dtype is None:
        return seen
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


@pytest.mark.parametrize("kind", [None, torch.bfloat16], ids=["booleans", "added"])
def test_short_sequences_are_as_exact_as_in_float32(kind: torch.dtype | None) -> None:
    short = parts(9, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend(nn.Module(), *short, mask(9, kind), is_causal=False)
    found.float().square().sum().backward()
    exact = [part.detach().float().requires_grad_() for part in short]
    expected, _ = sdpa_attention_forward(nn.Module(), *exact, mask(9, None), is_causal=False)
    rounded = expected.bfloat16()
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, rounded)
    rounded.float().square().sum().backward()
    for part, right in zip(short, exact, strict=True):
        assert right.grad is not None
        assert torch.equal(part.grad, right.grad.bfloat16())


def test_long_sequences_are_left_to_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def spy(_module: nn.Module, query: torch.Tensor, *_: object, **__: object) -> object:
        seen.append(query.dtype)
        return query, None

    monkeypatch.setattr(attention, "sdpa_attention_forward", spy)
    for tokens in (SHORT, SHORT + 1):
        attend(nn.Module(), *parts(tokens, torch.bfloat16), None)
    assert seen == [torch.float32, torch.bfloat16]


def tiny() -> PreTrainedModel:
    from transformers import AutoConfig

    torch.manual_seed(0)
    settings = {key: value for key, value in CONFIG.items() if key != "model_type"}
    config = AutoConfig.for_model("bert", vocab_size=50, **settings)
    model: PreTrainedModel = AutoModel.from_config(config)
    return model.eval()


@torch.no_grad()
def test_a_model_attends_so(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    ids = torch.arange(1, 13).reshape(2, 6)
    real = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    calls = 0

    def counting(*args: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        return sdpa_attention_forward(*args, **options)

    monkeypatch.setattr(attention, "sdpa_attention_forward", counting)
    exact = model(ids, attention_mask=real).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        close = model(ids, attention_mask=real).last_hidden_state
    assert calls == 2 * model.config.num_hidden_layers
    assert torch.allclose(close.float()[real == 1], exact[real == 1], atol=0.05)
