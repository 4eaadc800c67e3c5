"""Tasks on the licence, for models of every architecture that the trainer is tried on."""

from pathlib import Path
from typing import Any

import torch

from troika_api.v1alpha1.data import TokenizerTraining
from troika_api.v1alpha1.run import RUN, PretrainRun
from troika_trainer.batch import Batch
from troika_trainer.tasks.causal_lm import CausalLM
from troika_trainer.tasks.language import LanguageTask
from troika_trainer.tasks.masked_lm import MaskedLM
from troika_trainer.tokenizer import train_tokenizer

from .trainer_runs import LICENSE, pretrain_run

SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": SIZE,
    "roberta": SIZE,
    "electra": {**SIZE, "embedding_size": 16},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "modernbert": SIZE,
    "deberta-v2": SIZE,
    "albert": {**SIZE, "embedding_size": 16},
}
CAUSAL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "llama": {**SIZE, "num_key_value_heads": 1},
    "qwen3": {**SIZE, "num_key_value_heads": 1, "head_dim": 16},
}
_ROUTED = {**SIZE, "num_key_value_heads": 1, "num_experts_per_tok": 2}
SPARSE: dict[str, dict[str, Any]] = {
    "mixtral": {**_ROUTED, "num_local_experts": 8},
    "olmoe": {**_ROUTED, "num_experts": 8},
    "qwen2_moe": {
        **_ROUTED,
        "num_experts": 8,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 80,
    },
    "qwen3_moe": {**_ROUTED, "num_experts": 8, "moe_intermediate_size": 48},
    "gpt_oss": {**_ROUTED, "num_local_experts": 8, "head_dim": 16},
}

T5 = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
ENCODER_DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("t5", T5),
    "t5, two tables of words": ("t5", {**T5, "tie_word_embeddings": False}),
    "mt5": ("mt5", T5),
    "umt5": ("umt5", T5),
    "longt5": ("longt5", T5),
    "switch_transformers": ("switch_transformers", T5),
    "bart": ("bart", BART),
    "mbart": ("mbart", BART),
    "mvp": ("mvp", BART),
    "plbart": ("plbart", BART),
    "led": ("led", {**BART, "attention_window": 4}),
    "marian": ("marian", {**BART, "pad_token_id": 0}),
    "pegasus": ("pegasus", BART),
    "m2m_100": ("m2m_100", BART),
}
"""By name: transformers' name and the size."""


def texts() -> list[str]:
    return LICENSE.read_text().splitlines()


def run_with(config: dict[str, Any], **changes: Any) -> PretrainRun:
    run = RUN.validate_python(pretrain_run(Path("/x"), model={"config": None}, **changes))
    assert isinstance(run, PretrainRun)
    run.model.config = config
    return run


def masked(config: dict[str, Any], *, algorithm: str = "WordPiece", **changes: Any) -> MaskedLM:
    run = run_with(config, **changes)
    spec = TokenizerTraining(vocab_size=300)
    words = train_tokenizer(texts, spec, algorithm=algorithm, bidirectional=True)
    return MaskedLM(run, words)


def causal(config: dict[str, Any], **changes: Any) -> CausalLM:
    run = run_with(config, **changes)
    spec = TokenizerTraining(vocab_size=300)
    words = train_tokenizer(texts, spec, algorithm="ByteLevelBPE", bidirectional=False)
    return CausalLM(run, words)


def task_for(kind: str, **fields: Any) -> MaskedLM | CausalLM:
    """What models of an architecture learn, for one of this size but for some fields."""
    config = {**ARCHITECTURES, **CAUSAL, **SPARSE}[kind]
    make = masked if kind in ARCHITECTURES else causal
    return make({"model_type": kind, **config, **fields})


def batch_of(task: LanguageTask, *, samples: int = 4, length: int = 32, first: int = 40) -> Batch:
    ids = torch.arange(samples * length).reshape(samples, length).numpy() % 250 + first
    return task.collate(ids, torch.arange(samples).numpy(), torch.zeros(samples).long().numpy())
