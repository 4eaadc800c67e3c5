"""Nodes, pods and policy, and what the operator owns."""

from .mistake import ALL, FTJ, LLAMA, MULTIPLE, PTJ, RANKS, Mistake

DURATION = "expected a duration above zero, such as 90s or 1h30m"
ONE_EACH = "leave it out, or set it to gpusPerNode"

MISTAKES = [
    Mistake(
        "hang-action",
        PTJ,
        "policy",
        {"hang": {"action": "Kill"}},
        "spec.policy.hang.action",
        '"Restart", "Fail", "Warn"',
    ),
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
    Mistake(
        "processes-without-gpu",
        LLAMA,
        "compute.processesPerNode",
        16,
        "spec.compute.processesPerNode",
        ONE_EACH,
    ),
    Mistake(
        "gpus-without-process",
        LLAMA,
        "compute.processesPerNode",
        1,
        "spec.compute.processesPerNode",
        ONE_EACH,
    ),
    Mistake("nodes-text", PTJ, "compute.nodes", "two", "spec.compute.nodes", "integer"),
    Mistake(
        "memory",
        PTJ,
        "compute.resources.requests.memory",
        "8 GB",
        "spec.compute.resources.requests.memory",
        "should match",
    ),
    Mistake(
        "batch-below-gpus", FTJ, "compute.gpusPerNode", 64, "spec.training.globalBatchSize", RANKS
    ),
    Mistake(
        "sharded-on-three",
        LLAMA,
        ALL,
        {
            "training": {"steps": 10, "globalBatchSize": 256, "sharding": "FSDP"},
            "compute": {"nodes": 3},
        },
        "spec.training.globalBatchSize",
        MULTIPLE,
    ),
    Mistake(
        "sharded-on-three-processes",
        PTJ,
        ALL,
        {
            "training": {"steps": 10, "globalBatchSize": 64, "sharding": "HybridFSDP"},
            "compute": {"nodes": 2, "processesPerNode": 3},
        },
        "spec.training.globalBatchSize",
        MULTIPLE,
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
