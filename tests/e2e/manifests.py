"""Small jobs on real data: the smallest that still go through everything."""

from typing import Any

Manifest = dict[str, Any]


def pretrain(name: str, *, steps: int = 40, nodes: int = 2, **spec: Any) -> Manifest:
    """A BERT of two small layers on some prose; keyword arguments replace parts of the spec."""
    return {
        "apiVersion": "troika.dev/v1alpha1",
        "kind": "PretrainJob",
        "metadata": {"name": name},
        "spec": {
            "model": {
                "config": {
                    "model_type": "bert",
                    "hidden_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "intermediate_size": 128,
                }
            },
            "tokenizer": {"train": {"vocabSize": 2000}},
            "objective": "MaskedLM",
            "data": {
                "train": {"uri": "pvc://e2e/prose-train.jsonl"},
                "validation": {"uri": "pvc://e2e/prose-validation.jsonl"},
                "sequenceLength": 64,
            },
            "training": {
                "steps": steps,
                "globalBatchSize": 16,
                "precision": "FP32",
                "optimizer": {"learningRate": 1e-3},
            },
            "evaluation": {"maxSequences": 64},
            "compute": {
                "nodes": nodes,
                "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}},
            },
            "checkpoint": {"uri": f"pvc://e2e/run/{name}", "interval": "10steps"},
            "output": {"uri": f"pvc://e2e/models/{name}"},
            **spec,
        },
    }


def finetune(name: str, model: str, **spec: Any) -> Manifest:
    """Sentiment on top of `model`, a PretrainJob."""
    return {
        "apiVersion": "troika.dev/v1alpha1",
        "kind": "FinetuneJob",
        "metadata": {"name": name},
        "spec": {
            "model": {"from": {"pretrainJob": model}},
            "task": "TextClassification",
            "data": {
                "train": {"uri": "pvc://e2e/reviews-train.csv"},
                "validation": {"uri": "pvc://e2e/reviews-validation.csv"},
                "test": {"uri": "pvc://e2e/reviews-test.csv"},
                "maxLength": 64,
            },
            "training": {"epochs": 1, "globalBatchSize": 16, "precision": "FP32"},
            "compute": {
                "nodes": 2,
                "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}},
            },
            "checkpoint": {"uri": f"pvc://e2e/run/{name}", "interval": "10m"},
            "output": {"uri": f"pvc://e2e/models/{name}"},
            **spec,
        },
    }
