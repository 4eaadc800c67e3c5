"""What is trained: runs as the product reads them. Both sides are made from the same run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from support.real_data import head, real_data
from support.trainer_runs import merged
from troika_api.v1alpha1.run import RUN
from troika_trainer.distributed import process_group
from troika_trainer.model import build_model
from troika_trainer.place import Place
from troika_trainer.prepare import Cache, prepare_task
from troika_trainer.tasks import Task

from .work import Run, Work

VOCABULARY = 8192
ROWS = 3000
"""Paragraphs of prose: enough for every step of this, and tokenized in seconds."""

BERT = {
    "model_type": "bert",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 512,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 688,
    "max_position_embeddings": 512,
}
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 256,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 512,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
T5 = {
    "model_type": "t5",
    "d_model": 256,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 4,
    "num_heads": 4,
    "dropout_rate": 0.0,
}
WIDE_BERT = {
    **BERT,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
}
"""For LoRA, which is there for models that are large beside their adapters."""


def places(folder: Path) -> dict[str, Any]:
    """Where checkpoints would go, and the tokens do: no run here comes as far as to save."""
    return {
        "checkpoint": {"uri": str(folder / "checkpoints"), "interval": "24h"},
        "output": {"uri": str(folder / "model")},
    }


def training(batch: int, **more: Any) -> dict[str, Any]:
    """The same optimizer and rate on both sides."""
    return {
        "steps": 100_000,
        "globalBatchSize": batch,
        "precision": "BF16",
        "optimizer": {"learningRate": 5e-4},
        "schedule": {"type": "Constant", "warmupRatio": 0.0},
        **more,
    }


def pretraining(  # noqa: PLR0917
    name: str, folder: Path, objective: str, config: Run, length: int, batch: int
) -> Work:
    """From scratch, on prose."""
    data = real_data("prose") / "prose"
    train = head(data / "train.jsonl", folder / "prose.jsonl", ROWS)
    run = {
        "kind": "PretrainJob",
        "name": "bench",
        "objective": objective,
        "model": {"config": config},
        "tokenizer": {"train": {"vocabSize": VOCABULARY}},
        "data": {
            "train": {"uri": str(train)},
            "validation": {"uri": str(data / "validation.jsonl")},
            "sequenceLength": length,
        },
        "training": training(batch),
        "evaluation": {"everySteps": 1_000_000, "maxSequences": 32},
        **places(folder / name),
    }
    return Work(name, run, batch)


def masked_lm(folder: Path) -> Work:
    """BERT 4x256, T=256."""
    return pretraining("mlm", folder, "MaskedLM", BERT, 256, 16)


def causal_lm(folder: Path) -> Work:
    """Llama-style 4x256, T=512."""
    return pretraining("clm", folder, "CausalLM", LLAMA, 512, 8)


def architectures(folder: Path) -> dict[str, Work]:
    """Every family that is pretrained on text."""
    return {
        "BERT, T=256": masked_lm(folder),
        "Llama, T=512": causal_lm(folder),
        "GPT-2, T=512": pretraining("gpt2", folder, "CausalLM", GPT2, 512, 8),
        "T5, T=256": pretraining("t5", folder, "Denoising", T5, 256, 16),
    }


def classification(name: str, folder: Path, base: Path, **changes: Any) -> Work:
    """Classes of texts of all lengths.

    Args:
        name: Of the data set.
        folder: Where to put what is made.
        base: The model to start from.
        changes: Other changes to the run.
    """
    data = real_data(name) / name
    run = {
        "kind": "FinetuneJob",
        "name": "bench",
        "task": "TextClassification",
        "model": {"path": str(base)},
        "data": {
            "train": {"uri": str(data / "train.csv")},
            "validation": {"uri": str(data / "validation.csv")},
        },
        "training": training(32),
        **places(folder / name),
    }
    return Work(name, merged(run, changes), 32)


def on_gpu(folder: Path) -> dict[str, Work]:
    """Models of the usual sizes, from scratch, compiled."""
    gpt2 = {"model_type": "gpt2", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    bert = {"model_type": "bert", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    llama = {
        "model_type": "llama",
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "max_position_embeddings": 2048,
    }
    found = {
        "GPT-2 124M": ("CausalLM", {**gpt2, "vocab_size": 50304}, 1024, 16),
        "BERT-base": ("MaskedLM", {**bert, "vocab_size": 30592}, 512, 32),
        "Llama 1B": ("CausalLM", {**llama, "vocab_size": 32000}, 2048, 4),
    }
    return {
        name: pretraining(name, folder, *settings).but(training={"compile": "Always"})
        for name, settings in found.items()
    }


def grouped(work: Work) -> Work:
    """The same, with Trainer's `group_by_length`."""
    return replace(work, grouped=True)


def prepare(work: Work) -> tuple[Task, Any]:
    """Tokenize once, before the sides come and find it done."""
    run = RUN.validate_python(work.run)
    with process_group(Place()) as group:
        directory = Path(work.run["checkpoint"]["uri"]) / "cache"
        prepared = prepare_task(run, Cache(directory, directory, group, lambda: None))
        return prepared.task, prepared.stores


def base(folder: Path, config: Run) -> Path:
    """A model from scratch and its tokenizer, as `from_pretrained` reads them."""
    work = pretraining("base", folder, "MaskedLM", config, 256, 16)
    task, _ = prepare(work)
    body: Any = build_model(task.run, task).base_model
    body.save_pretrained(folder / "model")
    task.tokenizer.save_pretrained(folder / "model")
    return folder / "model"
