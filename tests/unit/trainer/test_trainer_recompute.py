"""Activation checkpointing: the same losses from less memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from support.trainer_runs import TINY_BERT, pretrain_run, train_here
from troika_api.v1alpha1.training import ActivationCheckpointing
from troika_trainer.errors import ConfigError
from troika_trainer.recompute import checkpoint_activations


@pytest.mark.parametrize("kind", ["Selective", "Full"])
def test_the_losses_are_the_same_dropout_included(tmp_path: Path, kind: str) -> None:
    dropout = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}
    short: dict[str, Any] = {"steps": 3}
    changes = {"model": {"config": {**TINY_BERT, **dropout}}, "training": short}
    plain = train_here(pretrain_run(tmp_path / "plain", **changes))
    short["activationCheckpointing"] = kind
    saving = train_here(pretrain_run(tmp_path / "saving", **changes))
    assert saving.losses == pytest.approx(plain.losses, abs=1e-6)


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=64,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.train()
    return model


def peak(kind: ActivationCheckpointing) -> int:
    """Most bytes at any time in a forward and backward pass, weights and all."""
    model = llama()
    checkpoint_activations(model, kind)
    ids = torch.arange(512).reshape(4, 128) % 64
    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return int(snapshot["Total"])


def test_each_kind_needs_less_memory_than_the_one_before() -> None:
    everything, selective, full = (peak(kind) for kind in ActivationCheckpointing)
    assert selective < 0.8 * everything
    assert full < 0.6 * selective


def test_a_model_without_layers_to_compute_again_is_refused() -> None:
    model = llama()
    type(model).supports_gradient_checkpointing = False
    try:
        with pytest.raises(ConfigError, match=r"Full: LlamaForCausalLM has no layers"):
            checkpoint_activations(model, ActivationCheckpointing.FULL)
    finally:
        type(model).supports_gradient_checkpointing = True
