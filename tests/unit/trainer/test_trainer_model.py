"""Models and their heads: what they compute, where, and how many FLOPs that is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
)

from support.language_tasks import (
    ARCHITECTURES,
    BART,
    CAUSAL,
    SIZE,
    SPARSE,
    T5,
    batch_of,
    causal,
    masked,
    run_with,
    task_for,
    texts,
)
from support.trainer_runs import TINY_BERT, finetune_run
from troika_api.v1alpha1.data import TokenizerTraining
from troika_api.v1alpha1.run import RUN, FinetuneRun, Objective, PretrainRun
from troika_api.v1alpha1.tasks import Task
from troika_trainer.batch import Batch, places_of
from troika_trainer.flops import flop_counter, peak_of, two_sided_counter
from troika_trainer.heads import Head
from troika_trainer.model import build_model, longest_input
from troika_trainer.tasks import task_class
from troika_trainer.tasks.base import Task as AnyTask
from troika_trainer.tasks.denoising import Denoising, sentinels
from troika_trainer.tasks.seq2seq import Seq2Seq
from troika_trainer.tokenizer import train_tokenizer

TWO_SIDED: dict[str, dict[str, Any]] = {
    "t5": {**T5, "d_kv": 24},
    "bart": {**BART, "decoder_ffn_dim": 96},
}
"""Heads that do not divide the width, and sides that differ."""


@pytest.mark.parametrize("kind", [*Objective, *Task])
def test_every_objective_and_task_of_the_api_has_its_file(
    kind: Objective | Task, tmp_path: Path
) -> None:
    run: PretrainRun | FinetuneRun
    if isinstance(kind, Objective):
        run = run_with(TINY_BERT).model_copy(update={"objective": kind})
    else:
        spec = RUN.validate_python(finetune_run(tmp_path, model=tmp_path))
        assert isinstance(spec, FinetuneRun)
        run = spec.model_copy(update={"task": kind})
    assert task_class(run).__name__ == kind.value


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_head_on_masked_positions_gives_the_logits_of_the_whole(kind: str) -> None:
    task = masked({"model_type": kind, **ARCHITECTURES[kind]})
    model = build_model(task.run, task).train(mode=False)
    batch = batch_of(task)
    where = (batch.labels != -100).nonzero(as_tuple=True)
    full = model(**batch.inputs).logits[where]
    head = Head(model)
    assert head.picks, f"{kind} runs its head everywhere"
    assert torch.allclose(head.logits(model, batch, where), full, atol=1e-5)
    assert torch.equal(model(**batch.inputs).logits[where], full), "and is itself otherwise"


def test_a_head_that_looks_around_is_run_everywhere() -> None:
    task = masked(TINY_BERT)
    model = build_model(task.run, task).train(mode=False)
    model.cls.register_forward_pre_hook(lambda _, args: (args[0] - args[0].mean(1, keepdim=True),))
    head = Head(model)
    assert not head.picks
    batch = batch_of(task)
    where = (batch.labels != -100).nonzero(as_tuple=True)
    assert torch.equal(head.logits(model, batch, where), model(**batch.inputs).logits[where])


def test_masks_depend_on_seed_epoch_and_sequence_only() -> None:
    task = masked(TINY_BERT)
    ids = torch.full((6, 32), 77).numpy()
    numbers, first = torch.arange(6).numpy(), torch.zeros(6).long().numpy()
    whole = task.collate(ids, numbers, first)
    part = task.collate(ids[2:4], numbers[2:4], first[2:4])
    assert torch.equal(whole.inputs["input_ids"][2:4], part.inputs["input_ids"])
    later = task.collate(ids, numbers, first + 1)
    assert not torch.equal(whole.labels, later.labels)


def test_of_the_chosen_tokens_most_are_masked_some_replaced_some_kept() -> None:
    task = masked(TINY_BERT)
    ids = torch.full((400, 128), 77).numpy()
    batch = task.collate(ids, torch.arange(400).numpy(), torch.zeros(400).long().numpy())
    chosen = batch.labels != -100
    seen = batch.inputs["input_ids"][chosen]
    assert batch.weight == int(chosen.sum()) == pytest.approx(0.15 * ids.size, rel=0.03)
    assert (seen == task.tokenizer.mask_token_id).float().mean() == pytest.approx(0.8, abs=0.02)
    assert (seen == 77).float().mean() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(batch.inputs["input_ids"][~chosen], torch.full((int((~chosen).sum()),), 77))


def test_special_tokens_are_never_predicted() -> None:
    task = masked(TINY_BERT)
    ids = torch.full((50, 32), task.tokenizer.sep_token_id).numpy()
    batch = task.collate(ids, torch.arange(50).numpy(), torch.zeros(50).long().numpy())
    assert batch.weight == 0


def test_roberta_loses_the_positions_below_its_padding_index() -> None:
    spec = {"model_type": "roberta", **SIZE, "max_position_embeddings": 66}
    task = masked(spec, algorithm="ByteLevelBPE")
    assert task.tokenizer.pad_token_id == 1
    assert longest_input(build_model(task.run, task)) == 64


def test_vocabulary_and_special_tokens_come_from_the_tokenizer() -> None:
    task = masked(TINY_BERT)
    config = build_model(task.run, task).config
    assert config.vocab_size == len(task.tokenizer) == 300
    assert config.pad_token_id == task.tokenizer.pad_token_id


def test_no_layer_of_a_new_model_is_dropped_at_random() -> None:
    config = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    task = causal({"model_type": "opt", **config, "layerdrop": 0.5})
    model = build_model(task.run, task)
    assert model.config.layerdrop == model.model.decoder.layerdrop == 0


def test_no_layer_of_a_given_model_is_dropped_at_random(tmp_path: Path) -> None:
    config = AutoConfig.for_model("m2m_100", **TWO_SIDED["bart"], vocab_size=300)
    auto: Any = AutoModelForSeq2SeqLM
    given = auto.from_config(config)
    assert given.model.decoder.layerdrop == given.model.encoder.layerdrop == 0.05
    given.save_pretrained(tmp_path / "base")
    words = train_tokenizer(
        texts, TokenizerTraining(vocab_size=300), algorithm="ByteLevelBPE", bidirectional=True
    )
    changes = {"task": "Seq2Seq", "data": {"test": None}}
    run = RUN.validate_python(finetune_run(tmp_path, model=tmp_path / "base", **changes))
    model = build_model(run, Seq2Seq(run, words))
    assert model.model.decoder.layerdrop == model.model.encoder.layerdrop == 0


@pytest.mark.parametrize("kind", [*CAUSAL, *SPARSE])
def test_counted_flops_are_those_that_torch_counts(kind: str) -> None:
    config = {**CAUSAL, **SPARSE}[kind]
    task = causal({"model_type": kind, **config, "max_position_embeddings": 64})
    model = build_model(task.run, task)
    task.attach(model)
    batch = batch_of(task, samples=2, length=64)
    counter = flop_counter(model)
    assert counter
    ours = counter.count(tokens=batch.tokens, heads=batch.tokens, pairs=batch.pairs)
    # torch counts no gradient for the input of the first layer, and rotary tables besides.
    assert ours == pytest.approx(counted_by_torch(task, model, batch), rel=0.03)


def test_flops_of_a_masked_model_count_its_head_on_masked_positions() -> None:
    task = masked({"model_type": "bert", **SIZE})
    model = build_model(task.run, task)
    task.attach(model)
    batch = batch_of(task)
    counter = flop_counter(model)
    assert counter
    ours = counter.count(tokens=batch.tokens, heads=batch.weight, pairs=batch.pairs)
    assert ours == pytest.approx(counted_by_torch(task, model, batch), rel=0.03)


@pytest.mark.parametrize(
    "config",
    [
        {
            "model_type": "switch_transformers",  # each expert is a module
            **T5,
            "num_decoder_layers": 2,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "num_experts": 4,
        },
        {
            "model_type": "jetmoe",  # attention has experts too
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "kv_channels": 16,
            "intermediate_size": 64,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
    ],
    ids=lambda config: config["model_type"],
)
def test_experts_that_cannot_be_told_are_no_flops(config: dict[str, Any]) -> None:
    of_kind = AutoConfig.for_model(**config, vocab_size=300)
    auto: Any = AutoModelForSeq2SeqLM if of_kind.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(of_kind)
    assert flop_counter(model) is two_sided_counter(model) is None


@pytest.mark.parametrize("kind", TWO_SIDED)
def test_flops_of_a_denoiser_count_each_side_on_its_own_tokens(kind: str) -> None:
    config = {"model_type": kind, **TWO_SIDED[kind]}
    run = run_with(config).model_copy(update={"objective": Objective.DENOISING})
    words = train_tokenizer(
        texts,
        TokenizerTraining(vocab_size=500),
        algorithm="ByteLevelBPE",
        bidirectional=True,
        extra=sentinels(run),
    )
    task = Denoising(run, words)
    model = build_model(run, task)
    task.attach(model)
    batch = batch_of(task, samples=8, length=64, first=150)  # below stand sentinels
    counter = task.flop_counter(model)
    assert counter
    ours = counter.count(tokens=batch.tokens, heads=batch.weight, pairs=batch.pairs)
    assert ours == pytest.approx(counted_by_torch(task, model, batch), rel=0.05)


@pytest.mark.parametrize("kind", TWO_SIDED)
def test_flops_of_a_translator_count_each_side_on_its_own_tokens(kind: str, tmp_path: Path) -> None:
    config = {"model_type": kind, **TWO_SIDED[kind], "vocab_size": 300, "pad_token_id": 0}
    words = train_tokenizer(
        texts, TokenizerTraining(vocab_size=300), algorithm="ByteLevelBPE", bidirectional=True
    )
    changes = {"task": "Seq2Seq", "data": {"test": None}}
    run = RUN.validate_python(finetune_run(tmp_path, model=tmp_path, **changes))
    task = Seq2Seq(run, words)
    auto: Any = AutoModelForSeq2SeqLM
    model = auto.from_config(AutoConfig.for_model(**{**config, "decoder_start_token_id": 0}))
    task.attach(model)
    labels = torch.full((2, 12), 99)
    batch = Batch(
        inputs={"input_ids": torch.full((2, 50), 77)},
        labels=labels,
        places=places_of(labels),
        weight=2 * 12,
        tokens=2 * (50 + 12),
        pairs=2 * (50**2 + 12**2 + 50 * 12),
    )
    counter = task.flop_counter(model)
    assert counter
    ours = counter.count(tokens=batch.tokens, heads=batch.weight, pairs=batch.pairs)
    assert ours == pytest.approx(counted_by_torch(task, model, batch), rel=0.03)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("GRID A100-10C", None),
        ("NVIDIA A40", 149.7e12),
        ("NVIDIA A40-8Q", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA RTX A6000", 154.85e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", None),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", None),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 836e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA H800", 989e12),
        ("NVIDIA H800 PCIe", 756e12),
        ("AMD Instinct MI250X", 191.5e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA GH200 480GB", None),
        ("AMD Instinct MI300X", 1307e12),
        ("Tesla T4", None),
    ],
)
def test_the_peak_is_that_of_the_very_device(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def _products(
    hidden: torch.Size,
    weight: torch.Size,
    _bias: torch.Size,
    _labels: torch.Size,
    _dtype: torch.dtype,
    _smoothing: float,
    of_hidden: bool,
    of_weight: bool,
    *_: object,
    **_shapes: object,
) -> int:
    """What torch would count of the matrix products that one operator hides from it."""
    return 2 * hidden.numel() * weight[0] * (1 + of_hidden + of_weight)


def counted_by_torch(task: AnyTask, model: PreTrainedModel, batch: Batch) -> int:
    model.set_attn_implementation("eager")
    # In a loop, each expert on its own tokens: torch does not see into the grouped product.
    model.set_experts_implementation("eager")
    head = {torch.ops.troika.summed_cross_entropy: _products}
    with FlopCounterMode(display=False, custom_mapping=head) as counter:
        loss, _ = task.forward(model.train(), batch)
        torch.autograd.backward(loss)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("kind", [*ARCHITECTURES, *CAUSAL])
def test_attention_is_torchs_own_wherever_the_architecture_can(kind: str) -> None:
    task = task_for(kind)
    used = build_model(task.run, task).config._attn_implementation
    assert used == ("eager" if kind == "deberta-v2" else "sdpa")
