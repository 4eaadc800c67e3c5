"""Small random models with tokenizers learnt from the rows that they are to be tested on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from troika_api.v1alpha1.data import TokenizerTraining
from troika_trainer.tokenizer import train_tokenizer

Rows = list[dict[str, Any]]


def read_rows(path: Path) -> Rows:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def causal_model(folder: Path, texts: Sequence[str], *, vocabulary: int = 1000) -> Path:
    """A GPT-2 of two layers, saved where a run can start from it."""
    tokenizer = train_tokenizer(
        lambda: texts,
        TokenizerTraining(vocab_size=vocabulary),
        algorithm="ByteLevelBPE",
        bidirectional=False,
    )
    return _saved(
        folder,
        tokenizer,
        AutoModelForCausalLM,
        model_type="gpt2",
        n_embd=64,
        n_layer=2,
        n_head=2,
        n_positions=96,
        bos_token_id=tokenizer.bos_token_id,
    )


def encoder_decoder(folder: Path, texts: Sequence[str], *, vocabulary: int = 1000) -> Path:
    """A T5 of two layers on either side, saved where a run can start from it."""
    tokenizer = train_tokenizer(
        lambda: texts,
        TokenizerTraining(vocab_size=vocabulary),
        algorithm="ByteLevelBPE",
        bidirectional=True,
    )
    return _saved(
        folder,
        tokenizer,
        AutoModelForSeq2SeqLM,
        model_type="t5",
        d_model=64,
        d_kv=32,
        d_ff=128,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=tokenizer.pad_token_id,
    )


def _saved(folder: Path, tokenizer: Any, auto_model: Any, **config: Any) -> Path:
    torch.manual_seed(0)
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    made = AutoConfig.for_model(vocab_size=len(tokenizer), **special, **config)
    auto_model.from_config(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
