"""One mistake in a manifest, and the examples that it is made in.

`at` is the dotted path to change in a good example; `value` is put there (`REMOVED` takes the field
away). The API server's answer must name `path` and contain `expected`.
"""

from dataclasses import dataclass
from typing import Any

REMOVED = object()
"""Stands for taking the field away."""
ALL = "."
"""In place of a path: the value holds several fields of the spec."""


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
LLAMA = "pretrain-llama-gpu.yaml"
STREAM = "pretrain-stream.yaml"
T5 = "pretrain-t5.yaml"
TRANSLATION = "finetune-translation.yaml"
QUESTIONS = "finetune-questions.yaml"
LORA = "finetune-lora.yaml"
RANKING = "finetune-ranking.yaml"
IMAGES = "pretrain-image.yaml"
SPEECH = "finetune-speech.yaml"
RANKS = "at least the number of ranks"
MULTIPLE = "a multiple of the number of ranks"
