"""What the tasks on labelled texts share: tokenized once, padded batch by batch."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding
from typing_extensions import override

from troika_trainer.batch import Batch, Integers
from troika_trainer.shards import Column, ColumnType, Example, Store

from .base import FinetuneTask, smallest_dtype


class Texts(ABC):
    """Tokenized texts of many lengths; a subclass knows what is to be predicted of each."""

    def __init__(self, store: Store, *, pad_id: int) -> None:
        self._ids = store["input_ids"]
        self._types = store.columns.get("token_type_ids")
        self._pad_id = pad_id
        self._lengths = self._ids.lengths

    def __len__(self) -> int:
        return len(self._lengths)

    @abstractmethod
    def targets(self, indices: Integers, real: Any) -> tuple[torch.Tensor, int]:
        """What is to be predicted of these texts.

        Args:
            indices: Number of each text, shape [samples].
            real: Where a padded position holds a token, shape [samples, tokens].

        Returns:
            The labels, shape [samples, ...], and the number of predictions.
        """

    def ids(self, index: int) -> Integers:
        """The tokens of one text. Shape [tokens]."""
        found: Integers = self._ids[index]
        return found

    def lengths(self, indices: Integers) -> Integers:
        """Tokens of each text. Shape [samples]."""
        return self._lengths[indices]

    def batch(self, indices: Integers, epochs: Integers) -> Batch:  # noqa: ARG002 - the same in each
        """These texts, padded to the longest of them."""
        lengths = self.lengths(indices)
        real = np.arange(lengths.max())[None, :] < lengths[:, None]
        inputs = {"input_ids": padded(self._ids, indices, real, self._pad_id), **mask_of(real)}
        if self._types is not None:
            inputs["token_type_ids"] = padded(self._types, indices, real, 0)
        labels, weight = self.targets(indices, real)
        return Batch(
            inputs=inputs,
            labels=labels,
            weight=weight,
            tokens=int(lengths.sum()),
            pairs=int((lengths**2).sum()),
        )


class ValuedTexts(Texts):
    """Texts that have one number each: a class, a measure."""

    def __init__(self, store: Store, *, pad_id: int, column: str = "label") -> None:
        super().__init__(store, pad_id=pad_id)
        values = store[column]
        self.labels = np.array(values.slice(0, len(values)))
        """The number of every example, shape [examples]."""

    @override
    def targets(self, indices: Integers, real: Any) -> tuple[torch.Tensor, int]:
        """Shape [samples]."""
        return torch.from_numpy(self.labels[indices]), len(indices)


class TextTask(FinetuneTask):
    """Fine-tunes a model on texts, or pairs of texts, that come with what to predict."""

    @property
    def has_types(self) -> bool:
        """Whether the model tells the two texts of a pair apart by token types."""
        return "token_type_ids" in self.tokenizer.model_input_names

    @property
    def max_length(self) -> int:
        """Most tokens of an input: what the run says, or less where the model takes no more."""
        return min(self.spec.data.max_length, int(self.tokenizer.model_max_length))

    @override
    def limits(self) -> dict[str, int]:
        return {"input_ids": self.max_length}

    @property
    def pad_id(self) -> int:
        """What fills the end of a short text; it is masked, so any token will do."""
        return self.tokenizer.pad_token_id or 0

    @property
    def token_columns(self) -> dict[str, ColumnType]:
        """The columns of `tokens_of`."""
        columns = {"input_ids": ColumnType(smallest_dtype(len(self.tokenizer)))}
        if self.has_types:
            columns["token_type_ids"] = ColumnType("uint8")
        return columns

    def tokenize(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, **options: Any
    ) -> BatchEncoding:
        """Texts, or pairs of them, cut to the length of the run."""
        settings = {
            "truncation": True,
            "max_length": self.max_length,
            "return_attention_mask": False,
            "return_token_type_ids": self.has_types,
            **options,
        }
        encoded: BatchEncoding = self.tokenizer(
            list(texts), None if pairs is None else list(pairs), **settings
        )
        return encoded

    def shown(self, examples: Texts, index: int) -> str:
        """A text as the model saw it: cut to its length, in the spelling of its tokens.

        The texts of a pair stand on lines of their own.
        """
        ids, end = examples.ids(index), self.tokenizer.sep_token_id
        parts = np.split(ids, np.flatnonzero(ids == end))
        texts = [
            str(self.tokenizer.decode(part.tolist(), skip_special_tokens=True)) for part in parts
        ]
        return "\n".join(text for text in texts if text)

    def tokens_of(self, encoded: BatchEncoding, index: int) -> Example:
        """What one text contributes to an example."""
        names = self.token_columns
        return {name: np.asarray(encoded[name][index]) for name in names}


def mask_of(real: Any) -> dict[str, torch.Tensor]:
    """The model's argument that tells of padding, where there is any: one to look at costs a wait.

    Args:
        real: Where a padded position holds a token, shape [samples, tokens].
    """
    return {} if real.all() else {"attention_mask": torch.from_numpy(real.astype(np.int64))}


def padded(column: Column, indices: Integers, real: Any, fill: int) -> torch.Tensor:
    """Rows of a ragged column at the real positions. Shape [samples, tokens], int64."""
    values = np.full(real.shape, fill, dtype=np.int64)
    values[real] = np.concatenate([column[int(index)] for index in indices])
    return torch.from_numpy(values)
