"""Manifests with one mistake each, and what the refusal must say.

`at` is the dotted path to change in a good example; `value` is put there (`REMOVED` takes the field
away). The API server's answer must name `path` and contain `expected`.
"""

from dataclasses import dataclass
from typing import Any

REMOVED = object()
"""Stands for taking the field away."""


@dataclass(frozen=True)
class Mistake:
    """One change to a good manifest."""

    id: str
    example: str
    at: str
    value: Any
    path: str
    expected: str


PTJ = "pretrain-bert.yaml"
FTJ = "finetune-sentiment.yaml"
RANKS = "at least the number of ranks"
URI = "expected pvc://CLAIM/PATH"
DURATION = "expected a duration above zero, such as 90s or 1h30m"

MISTAKES = [
    # Required fields and unknown ones.
    Mistake("no-model", PTJ, "model", REMOVED, "spec.model", "Required value"),
    Mistake("no-objective", PTJ, "objective", REMOVED, "spec.objective", "Required value"),
    Mistake("no-data", PTJ, "data", REMOVED, "spec.data", "Required value"),
    Mistake("no-train-data", PTJ, "data.train", REMOVED, "spec.data.train", "Required value"),
    Mistake("no-training", PTJ, "training", REMOVED, "spec.training", "Required value"),
    Mistake("no-checkpoint", PTJ, "checkpoint", REMOVED, "spec.checkpoint", "Required value"),
    Mistake("no-output-uri", PTJ, "output", {}, "spec.output.uri", "Required value"),
    Mistake("no-task", FTJ, "task", REMOVED, "spec.task", "Required value"),
    Mistake("unknown-field", PTJ, "objectve", "CausalLM", "spec.objectve", "unknown field"),
    Mistake("unknown-nested", PTJ, "training.lr", 0.1, "spec.training.lr", "unknown field"),
    # Enumerations.
    Mistake("objective", PTJ, "objective", "Masked", "spec.objective", '"MaskedLM", "CausalLM"'),
    Mistake("task", FTJ, "task", "Sentiment", "spec.task", '"TextClassification"'),
    Mistake("precision", PTJ, "training.precision", "fp16", "spec.training.precision", '"BF16"'),
    Mistake(
        "schedule",
        PTJ,
        "training.schedule",
        {"type": "Step"},
        "spec.training.schedule.type",
        '"Linear", "Cosine", "Constant"',
    ),
    Mistake(
        "best-by",
        FTJ,
        "evaluation.bestBy",
        "bleu",
        "spec.evaluation.bestBy",
        '"f1", "accuracy", "loss"',
    ),
    Mistake(
        "hang-action",
        PTJ,
        "policy",
        {"hang": {"action": "Kill"}},
        "spec.policy.hang.action",
        '"Restart", "Fail", "Warn"',
    ),
    Mistake("format", FTJ, "data.train.format", "xml", "spec.data.train.format", '"Parquet"'),
    # Bounds and types.
    Mistake(
        "zero-nodes", PTJ, "compute.nodes", 0, "spec.compute.nodes", "greater than or equal to 1"
    ),
    Mistake(
        "negative-gpus",
        PTJ,
        "compute.gpusPerNode",
        -1,
        "spec.compute.gpusPerNode",
        "greater than or equal to 0",
    ),
    Mistake("nodes-text", PTJ, "compute.nodes", "two", "spec.compute.nodes", "integer"),
    Mistake(
        "tiny-sequence",
        PTJ,
        "data.sequenceLength",
        2,
        "spec.data.sequenceLength",
        "greater than or equal to 8",
    ),
    Mistake(
        "huge-vocab",
        PTJ,
        "tokenizer.train.vocabSize",
        9999999,
        "spec.tokenizer.train.vocabSize",
        "less than or equal to 1048576",
    ),
    Mistake(
        "mask-all", PTJ, "masking", {"probability": 1.0}, "spec.masking.probability", "less than 1"
    ),
    Mistake(
        "negative-rate",
        PTJ,
        "training.optimizer.learningRate",
        -0.001,
        "spec.training.optimizer.learningRate",
        "greater than 0",
    ),
    Mistake(
        "one-beta",
        PTJ,
        "training.optimizer.betas",
        [0.9],
        "spec.training.optimizer.betas",
        "at least 2 items",
    ),
    Mistake(
        "warmup",
        PTJ,
        "training.schedule",
        {"warmupRatio": 6},
        "spec.training.schedule.warmupRatio",
        "less than or equal to 1",
    ),
    Mistake(
        "fraction",
        PTJ,
        "data.validation.fraction",
        0.9,
        "spec.data.validation.fraction",
        "less than or equal to 0.5",
    ),
    Mistake(
        "keep-none", PTJ, "checkpoint.keep", 0, "spec.checkpoint.keep", "greater than or equal to 1"
    ),
    Mistake(
        "memory",
        PTJ,
        "compute.resources.requests.memory",
        "8 GB",
        "spec.compute.resources.requests.memory",
        "should match",
    ),
    Mistake(
        "empty-column",
        FTJ,
        "data.columns.text",
        "",
        "spec.data.columns.text",
        "at least 1 chars long",
    ),
    # Cross-field rules.
    Mistake(
        "no-length",
        PTJ,
        "training.tokens",
        REMOVED,
        "spec.training",
        "set exactly one of steps, tokens and epochs",
    ),
    Mistake(
        "two-lengths",
        PTJ,
        "training.steps",
        5,
        "spec.training",
        "set exactly one of steps, tokens and epochs",
    ),
    Mistake(
        "config-and-from",
        PTJ,
        "model.from",
        {"uri": "hf://org/name"},
        "spec.model",
        "set exactly one of config and from",
    ),
    Mistake(
        "no-model-type",
        PTJ,
        "model.config",
        {"hidden_size": 8},
        "spec.model.config.model_type",
        "Required value",
    ),
    Mistake(
        "two-sources",
        FTJ,
        "model.from.uri",
        "hf://org/name",
        "spec.model.from",
        "set exactly one of uri, pretrainJob and finetuneJob",
    ),
    Mistake(
        "no-source",
        FTJ,
        "model.from",
        {},
        "spec.model.from",
        "set exactly one of uri, pretrainJob and finetuneJob",
    ),
    Mistake(
        "no-tokenizer",
        PTJ,
        "tokenizer",
        REMOVED,
        "spec.tokenizer",
        "a model from scratch needs a tokenizer",
    ),
    Mistake(
        "empty-tokenizer",
        PTJ,
        "tokenizer",
        {},
        "spec.tokenizer",
        "set exactly one of train and from",
    ),
    Mistake(
        "both-validations",
        PTJ,
        "data.validation.uri",
        "pvc://corpus/x",
        "spec.data.validation",
        "set exactly one of uri and fraction",
    ),
    Mistake(
        "micro-batch",
        PTJ,
        "training.microBatchSize",
        128,
        "spec.training.microBatchSize",
        "must not be larger than globalBatchSize",
    ),
    Mistake(
        "batch-below-ranks",
        PTJ,
        "training.globalBatchSize",
        1,
        "spec.training.globalBatchSize",
        RANKS,
    ),
    Mistake(
        "batch-below-gpus", FTJ, "compute.gpusPerNode", 64, "spec.training.globalBatchSize", RANKS
    ),
    Mistake(
        "output-is-checkpoint",
        PTJ,
        "output.uri",
        "pvc://models/checkpoints/bert-prose",
        "spec.output.uri",
        "must not be checkpoint.uri",
    ),
    # URIs, durations, names.
    Mistake("uri-scheme", PTJ, "data.train.uri", "ftp://host/x", "spec.data.train.uri", URI),
    Mistake("uri-relative", PTJ, "data.train.uri", "data/x.jsonl", "spec.data.train.uri", URI),
    Mistake(
        "uri-climbs",
        PTJ,
        "data.train.uri",
        "pvc://corpus/../etc",
        "spec.data.train.uri",
        "'..' is not allowed",
    ),
    Mistake(
        "output-to-hub",
        PTJ,
        "output.uri",
        "hf://org/name",
        "spec.output.uri",
        "a volume that every node of the job can mount",
    ),
    Mistake("claim-name", PTJ, "checkpoint.uri", "pvc://My_Claim/x", "spec.checkpoint.uri", URI),
    Mistake(
        "interval", PTJ, "checkpoint.interval", "soon", "spec.checkpoint.interval", "should match"
    ),
    Mistake("deadline", PTJ, "policy", {"deadline": "1 day"}, "spec.policy.deadline", DURATION),
    Mistake(
        "zero-duration",
        PTJ,
        "policy",
        {"hang": {"after": "0s"}},
        "spec.policy.hang.after",
        DURATION,
    ),
    Mistake(
        "job-name",
        FTJ,
        "model.from.pretrainJob",
        "Bert Prose",
        "spec.model.from.pretrainJob",
        "should match",
    ),
    # What the operator owns.
    Mistake(
        "reserved-env",
        PTJ,
        "compute.env",
        [{"name": "PET_NNODES", "value": "3"}],
        "spec.compute.env",
        "set by the operator",
    ),
    Mistake(
        "twice-env",
        PTJ,
        "compute.env",
        [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
        "spec.compute.env[1]",
        "Duplicate value",
    ),
    Mistake(
        "env-two-values",
        PTJ,
        "compute.env",
        [{"name": "A", "value": "1", "secret": {"name": "s", "key": "k"}}],
        "spec.compute.env[0]",
        "set exactly one of value and secret",
    ),
    Mistake(
        "reserved-label",
        PTJ,
        "compute.labels",
        {"troika.dev/attempt": "7"},
        "spec.compute.labels",
        "set by the operator",
    ),
]

IMMUTABLE = [
    Mistake("model", PTJ, "model.config.hidden_size", 512, "spec.model", "create a new job"),
    Mistake("objective", PTJ, "objective", "CausalLM", "spec.objective", "create a new job"),
    Mistake("data", PTJ, "data.sequenceLength", 128, "spec.data", "create a new job"),
    Mistake("seed", PTJ, "training.seed", 18, "spec.training", "create a new job"),
    Mistake("output", PTJ, "output.uri", "pvc://models/other", "spec.output", "create a new job"),
    Mistake("task-model", FTJ, "model.from.pretrainJob", "other", "spec.model", "create a new job"),
    Mistake("columns", FTJ, "data.columns.text", "other", "spec.data", "create a new job"),
]
"""Changes of an existing job that would invalidate the run."""

MUTABLE = [
    ("compute.nodes", 3),
    ("compute.resources.requests.memory", "16Gi"),
    ("policy.suspend", True),
    ("policy.deadline", "8h"),
]
"""Changes of an existing job that are welcome."""
