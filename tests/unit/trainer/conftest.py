"""What the trainer's tests share."""

from typing import Any

import pytest
import torch

from support.streams import TEXTS
from troika_api.v1alpha1.data import TokenizerTraining
from troika_trainer.tokenizer import train_tokenizer


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """One for each small model: on shared cores more threads wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """Of the corpus of `support.streams`."""
    spec = TokenizerTraining(vocab_size=300)
    return train_tokenizer(lambda: TEXTS, spec, algorithm="ByteLevelBPE", bidirectional=False)
