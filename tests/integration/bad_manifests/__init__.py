"""Manifests with one mistake each, and what the refusal must say; a file for a part of the API."""

from . import compute, data, model, storage, task, tracking, training
from .mistake import ALL, FTJ, PTJ, REMOVED, Mistake

__all__ = ["ALL", "IMMUTABLE", "MISTAKES", "MUTABLE", "REMOVED", "Mistake"]

MISTAKES = [
    *model.MISTAKES,
    *data.MISTAKES,
    *training.MISTAKES,
    *task.MISTAKES,
    *storage.MISTAKES,
    *compute.MISTAKES,
    *tracking.MISTAKES,
]

IMMUTABLE = [
    Mistake("model", PTJ, "model.config.hidden_size", 512, "spec.model", "create a new job"),
    Mistake("objective", PTJ, "objective", "CausalLM", "spec.objective", "create a new job"),
    Mistake("data", PTJ, "data.sequenceLength", 128, "spec.data", "create a new job"),
    Mistake("seed", PTJ, "training.seed", 18, "spec.training", "create a new job"),
    Mistake("output", PTJ, "output.uri", "pvc://models/other", "spec.output", "create a new job"),
    Mistake("method", FTJ, "method", {"type": "LoRA"}, "spec.method", "create a new job"),
    Mistake("loss", FTJ, "loss", {"labelSmoothing": 0.1}, "spec.loss", "create a new job"),
    Mistake("task-model", FTJ, "model.from.pretrainJob", "other", "spec.model", "create a new job"),
    Mistake("columns", FTJ, "data.columns.text", "other", "spec.data", "create a new job"),
]
"""Changes of an existing job that would invalidate the run."""

MUTABLE = [
    ("compute.nodes", 3),
    ("compute.resources.requests.memory", "16Gi"),
    ("policy.suspend", True),
    ("policy.deadline", "8h"),
    ("tracking", {"mlflow": {"uri": "http://mlflow.tools:5000"}}),
]
"""Changes of an existing job that are welcome."""
