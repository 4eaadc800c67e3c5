"""The loss over a vocabulary, made block by block, is the loss; so is its gradient."""

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PreTrainedModel
from transformers.utils.generic import ModelOutput

from support.language_tasks import (
    ARCHITECTURES,
    CAUSAL,
    ENCODER_DECODERS,
    batch_of,
    causal,
    masked,
)
from support.trainer_runs import TINY_BERT
from troika_trainer import vocabulary
from troika_trainer.batch import IGNORED, Batch, places_of, with_decoder_inputs
from troika_trainer.heads import Head
from troika_trainer.model import build_model
from troika_trainer.tasks.base import Objective


def made(*shape: int, seed: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_()


def both(*, with_bias: bool, smoothing: float = 0.0) -> list[list[torch.Tensor]]:
    """Mean loss and its gradients, ours and torch's."""
    labels = torch.arange(37) * 7 % 50
    found = []
    for way in ("ours", "torch"):
        hidden, weight = made(37, 16, seed=1), made(50, 16, seed=2)
        bias = made(50, seed=3) if with_bias else None
        if way == "ours":
            loss = vocabulary.summed_cross_entropy(
                hidden, weight, bias, labels, smoothing=smoothing
            )
        else:
            logits = linear(hidden, weight, bias).float()
            loss = cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
        inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
        found.append([loss / 37, *torch.autograd.grad(loss / 37, inputs)])
    return found


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("bias", [True, False])
def test_the_loss_of_blocks_is_that_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, bias: bool, smoothing: float
) -> None:
    monkeypatch.setattr(vocabulary, "SMALLEST_BLOCK", 8)
    monkeypatch.setattr(vocabulary, "BLOCK", 8 * 50)
    monkeypatch.setattr(vocabulary, "IN_CACHE", 3 * 50)
    ours, theirs = both(with_bias=bias, smoothing=smoothing)
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


def test_compilers_are_told_the_truth_about_the_loss() -> None:
    """torch's own examination: schema, shapes without data, gradients, and all of it compiled."""
    hidden, weight, bias = made(7, 16, seed=1), made(50, 16, seed=2), made(50, seed=3)
    for given in (bias, None):
        wanted = (True, True, given is not None)
        arguments = (hidden, weight, given, torch.arange(7), torch.float32, 0.1, *wanted)
        torch.library.opcheck(torch.ops.troika.summed_cross_entropy.default, arguments)


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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_encoder_decoders_learn_the_same_without_their_logits(kind: str, smoothing: float) -> None:
    torch.manual_seed(17)
    kind_, size = ENCODER_DECODERS[kind]
    config = AutoConfig.for_model(kind_, vocab_size=300, decoder_start_token_id=2, **size)
    model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(config)  # type: ignore[no-untyped-call]
    model.train(mode=False)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias = torch.linspace(-3.0, 3.0, 300)[None]
    head = Head(model)
    assert head.fuses, f"{kind} keeps all logits"
    labels = torch.arange(4 * 9).reshape(4, 9) * 7 % 300
    labels[1, 5:] = IGNORED
    read = {"input_ids": torch.arange(4 * 12).reshape(4, 12) % 300}
    batch = with_decoder_inputs(Batch(read, labels, 32, 48, 0, places=places_of(labels)), config)
    losses = [
        head.loss(model, batch, batch.where, labels[batch.where], smoothing=smoothing),
        cross_entropy(
            model(**batch.inputs, use_cache=False).logits.flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=smoothing,
        ),
    ]
    compare(model, losses, 32)


@pytest.mark.parametrize("kind", [*ARCHITECTURES, *CAUSAL])
def test_a_compiled_model_learns_the_same_without_its_logits(kind: str) -> None:
    """In one graph, though the batches differ in how much they predict."""
    torch.compiler.reset()
    make, size = (causal, CAUSAL) if kind in CAUSAL else (masked, ARCHITECTURES)
    task = make({"model_type": kind, **size[kind]}, training={"dropout": 0.0})
    model = build_model(task.run, task).train()
    task.attach(model)
    products: list[object] = []
    model.get_output_embeddings().register_forward_hook(lambda *_: products.append(1))
    forward = Objective(model, task).forward
    compiled = torch.compile(forward, backend="aot_eager", fullgraph=True)
    for length in (32, 24, 28):
        batch = batch_of(task, length=length)
        compare(model, [compiled(batch)[0], forward(batch)[0]], batch.weight)
    assert not products, "the output layer made its logits"


def compare(model: torch.nn.Module, losses: list[torch.Tensor], weight: int) -> None:
    assert losses[0].item() / weight == pytest.approx(losses[1].item() / weight, rel=3e-7, abs=1e-6)
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
