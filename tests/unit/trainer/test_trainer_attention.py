"""Attention over short sequences on the CPU gives what transformers gives, in float32."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, BertConfig, BertModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from support.tinyrun import CONFIG
from troika_trainer import attention
from troika_trainer.attention import SHORT, attend, use_fast_attention


@pytest.fixture
def fast() -> Iterator[None]:
    use_fast_attention()
    yield
    AttentionInterface.register("sdpa", sdpa_attention_forward)


def parts(tokens: int, dtype: torch.dtype) -> Any:
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
    short = query, key, value = parts(9, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend(nn.Module(), query, key, value, mask(9, kind), is_causal=False)
    torch.autograd.backward(found.float().square().sum())
    exact = query, key, value = [part.detach().float().requires_grad_() for part in short]
    seen = mask(9, None)
    expected, _ = sdpa_attention_forward(nn.Module(), query, key, value, seen, is_causal=False)
    rounded = expected.bfloat16()
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, rounded)
    torch.autograd.backward(rounded.float().square().sum())
    for part, right in zip(short, exact, strict=True):
        assert right.grad is not None
        assert torch.equal(part.grad, right.grad.bfloat16())


def test_long_sequences_are_left_to_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def spy(_module: nn.Module, query: torch.Tensor, *_: object, **__: object) -> object:
        seen.append(query.dtype)
        return query, None

    monkeypatch.setattr(attention, "_as_transformers", spy)
    for tokens in (SHORT, SHORT + 1):
        query, key, value = parts(tokens, torch.bfloat16)
        attend(nn.Module(), query, key, value, None)
    assert seen == [torch.float32, torch.bfloat16]


def tiny() -> Any:
    torch.manual_seed(0)
    settings: Any = {key: value for key, value in CONFIG.items() if key != "model_type"}
    return BertModel(BertConfig(vocab_size=50, **settings)).train(mode=False)


@torch.no_grad()
def test_a_model_attends_so(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    ids = torch.arange(1, 13).reshape(2, 6)
    real = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]])
    calls = 0

    def counting(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return sdpa_attention_forward(*args, **options)

    monkeypatch.setattr(attention, "_as_transformers", counting)
    exact = model(ids, attention_mask=real).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        close = model(ids, attention_mask=real).last_hidden_state
    assert calls == 2 * model.config.num_hidden_layers
    assert torch.allclose(close.float()[real == 1], exact[real == 1], atol=0.05)
