"""Where things are: data, cache, checkpoints, output."""

from .mistake import FTJ, PTJ, REMOVED, Mistake

URI = "expected pvc://CLAIM/PATH"

MISTAKES = [
    Mistake("no-checkpoint", PTJ, "checkpoint", REMOVED, "spec.checkpoint", "Required value"),
    Mistake("no-output-uri", PTJ, "output", {}, "spec.output.uri", "Required value"),
    Mistake(
        "keep-none", PTJ, "checkpoint.keep", 0, "spec.checkpoint.keep", "greater than or equal to 1"
    ),
    Mistake(
        "output-is-checkpoint",
        PTJ,
        "output.uri",
        "pvc://models/checkpoints/bert-prose",
        "spec.output.uri",
        "must not be checkpoint.uri",
    ),
    Mistake(
        "cache-is-output",
        PTJ,
        "data.cache",
        {"uri": "pvc://models/bert-prose"},
        "spec.data.cache.uri",
        "must not be output.uri",
    ),
    Mistake(
        "cache-in-a-bucket",
        FTJ,
        "data.cache",
        {"uri": "s3://bucket/cache"},
        "spec.data.cache.uri",
        "a volume that every node of the job can mount",
    ),
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
]
