"""The loss over a vocabulary, made block by block, is the loss; so is its gradient."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from transformers.utils.generic import ModelOutput

from support.language_tasks import ARCHITECTURES, CAUSAL, batch_of, causal, masked
from support.trainer_runs import TINY_BERT
from troika_trainer import vocabulary
from troika_trainer.heads import Head
from troika_trainer.model import build_model


def made(*shape: int, seed: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_()


def both(*, with_bias: bool) -> list[list[torch.Tensor]]:
    """Mean loss and its gradients, ours and torch's."""
    labels = torch.arange(37) * 7 % 50
    found = []
    for way in ("ours", "torch"):
        hidden, weight = made(37, 16, seed=1), made(50, 16, seed=2)
        bias = made(50, seed=3) if with_bias else None
        if way == "ours":
            loss = vocabulary.summed_cross_entropy(hidden, weight, bias, labels)
        else:
            logits = linear(hidden, weight, bias).float()
            loss = cross_entropy(logits, labels, reduction="sum")
        inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
        found.append([loss / 37, *torch.autograd.grad(loss / 37, inputs)])
    return found


@pytest.mark.parametrize("bias", [True, False])
def test_the_loss_of_blocks_is_that_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, bias: bool
) -> None:
    monkeypatch.setattr(vocabulary, "SMALLEST_BLOCK", 8)
    monkeypatch.setattr(vocabulary, "BLOCK", 8 * 50)
    monkeypatch.setattr(vocabulary, "IN_CACHE", 3 * 50)
    ours, theirs = both(with_bias=bias)
    assert len(ours) == len(theirs) == (4 if bias else 3)
    for mine, their in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, their, atol=1e-6)


def test_under_autocast_the_products_are_in_bfloat16() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = both(with_bias=True)
    exact, _ = both(with_bias=True)
    assert ours[0].item() == pytest.approx(theirs[0].item(), abs=1e-6)
    assert ours[0].item() != exact[0].item()
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.dtype is torch.float32
        assert torch.allclose(mine, their, atol=2e-3)


def test_a_frozen_output_layer_has_no_gradient() -> None:
    hidden, weight = made(4, 16, seed=1), made(50, 16, seed=2).detach()
    loss = vocabulary.summed_cross_entropy(hidden, weight, None, torch.arange(4))
    (gradient,) = torch.autograd.grad(loss, [hidden])
    assert gradient.shape == hidden.shape


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_masked_models_learn_the_same_without_their_logits(kind: str) -> None:
    task = masked({"model_type": kind, **ARCHITECTURES[kind]})
    model = build_model(task.run, task).train(mode=False)
    head, batch = Head(model), batch_of(task)
    assert head.fuses, f"{kind} keeps all logits"
    where = (batch.labels != -100).nonzero(as_tuple=True)
    wanted = batch.labels[where]
    losses = [
        head.loss(model, batch, where, wanted),
        cross_entropy(model(**batch.inputs).logits[where], wanted, reduction="sum"),
    ]
    compare(model, losses, len(wanted))


@pytest.mark.parametrize("kind", CAUSAL)
def test_causal_models_learn_the_same_without_their_logits(kind: str) -> None:
    task = causal({"model_type": kind, **CAUSAL[kind]})
    model = build_model(task.run, task).train(mode=False)
    head, batch = Head(model), batch_of(task)
    assert head.fuses, f"{kind} keeps all logits"
    logits = model(**batch.inputs).logits[:, :-1].flatten(0, 1)
    losses = [
        head.loss_of_next(model, batch),
        cross_entropy(logits, batch.labels.flatten(), reduction="sum"),
    ]
    compare(model, losses, batch.weight)


def compare(model: torch.nn.Module, losses: list[torch.Tensor], weight: int) -> None:
    assert losses[0].item() / weight == pytest.approx(losses[1].item() / weight, abs=1e-6)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    mine, their = (torch.autograd.grad(loss, weights, materialize_grads=True) for loss in losses)
    for a, b in zip(mine, their, strict=True):
        assert torch.allclose(a / weight, b / weight, atol=1e-6)


def squashed(_model: object, _inputs: object, output: ModelOutput) -> ModelOutput:
    output["logits"] = output["logits"].tanh()
    return output


def test_a_head_that_does_more_than_a_product_keeps_its_logits() -> None:
    task = masked(TINY_BERT)
    model = build_model(task.run, task).train(mode=False)
    model.register_forward_hook(squashed)
    head, batch = Head(model), batch_of(task)
    assert not head.fuses
    where = (batch.labels != -100).nonzero(as_tuple=True)
    wanted = batch.labels[where]
    expected = cross_entropy(model(**batch.inputs).logits[where], wanted, reduction="sum")
    assert head.loss(model, batch, where, wanted).item() == pytest.approx(expected.item())
