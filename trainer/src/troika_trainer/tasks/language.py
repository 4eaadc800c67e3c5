"""What the objectives on running text share: documents are joined and cut, or packed into rows."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import exp
from pathlib import Path

import numpy as np
from typing_extensions import override

from troika_api.v1alpha1.run import PretrainRun
from troika_trainer.batch import Batch, Examples, Integers
from troika_trainer.errors import DataError
from troika_trainer.packing import WINDOW, Layout, joined, positions
from troika_trainer.rows import Row, text_column
from troika_trainer.shards import ColumnType, Example, Store
from troika_trainer.tokenizer import Tokenizers

from .base import MadeOnce, Measured, Task, smallest_dtype


class Sequences:
    """A stream of tokens cut into pieces of equal length; an unfilled last one is left out."""

    def __init__(self, store: Store, task: "LanguageTask") -> None:
        self._tokens = store["input_ids"]
        self._task = task
        self._length = task.spec.data.sequence_length
        if not len(self):
            raise DataError(
                f"the {store.facts.get('split', 'text')} split has {self._tokens.items} tokens, "
                f"fewer than one sequence of {self._length}",
                "add text, or lower data.sequenceLength",
            )

    def __len__(self) -> int:
        return self._tokens.items // self._length

    def lengths(self, indices: Integers) -> Integers:
        """All the same."""
        return np.full(len(indices), self._length, dtype=np.int64)

    def batch(self, indices: Integers, epochs: Integers) -> Batch:
        """These sequences, as the task presents each in its epoch."""
        starts = indices * self._length
        rows = [self._tokens.slice(int(at), int(at) + self._length) for at in starts]
        return self._task.collate(np.stack(rows).astype(np.int64), indices, epochs)


class PackedRows:
    """Rows of whole texts, and of pieces of those that are longer; none sees another."""

    def __init__(self, store: Store, layout: Layout, task: "LanguageTask") -> None:
        self._tokens, self._layout, self._task = store["input_ids"], layout, task
        if not len(self):
            raise DataError(f"the {store.facts.get('split', 'text')} split has no text", "add some")

    def __len__(self) -> int:
        return len(self._layout)

    def lengths(self, indices: Integers) -> Integers:
        """Tokens of each row, without padding."""
        return self._layout.tokens[indices]

    def batch(self, indices: Integers, epochs: Integers) -> Batch:
        """These rows, as the task presents each in its epoch, filled up to the longest."""
        rows = [self._layout.pieces(int(index)) for index in indices]
        parts = [
            [self._tokens.slice(start, start + length) for start, length in zip(*row, strict=True)]
            for row in rows
        ]
        tokens = joined(parts, fill=self._task.filler).numpy()
        return self._task.apart(
            self._task.collate(tokens, indices, epochs), [lengths for _, lengths in rows]
        )


class LanguageTask(Task):
    """Learns from text with no labels."""

    @property
    def spec(self) -> PretrainRun:
        """The run, which must be one that pretrains."""
        assert isinstance(self.run, PretrainRun)
        return self.run

    @property
    def framed(self) -> bool:
        """Whether the tokenizer ends each text with a token of its own."""
        return isinstance(self.preprocessing, Tokenizers) and self.preprocessing.bidirectional

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        return {"input_ids": ColumnType(smallest_dtype(len(self.tokenizer)))}

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        column = self.spec.data.train.column
        texts = [row.text(text_column(row, column)) for row in rows]
        texts = [text for text in texts if text.strip()]
        if not texts:
            return
        end = self.tokenizer.eos_token_id
        encoded = self.tokenizer(texts, add_special_tokens=True, return_attention_mask=False)
        for tokens in encoded["input_ids"]:
            if not self.framed and end is not None and tokens[-1:] != [end]:
                tokens.append(end)
            yield {"input_ids": np.asarray(tokens)}

    @override
    def arrange(self, stores: Mapping[str, Store], made_once: MadeOnce) -> None:
        """Packed: which texts share a row depends on all of them, and takes a while to find."""
        if not self.spec.data.packing:
            return
        room = self.spec.data.sequence_length

        def lay_out(directory: Path) -> None:
            for split, store in stores.items():
                Layout.of(store["input_ids"].lengths, room=room).save(directory / split)

        directory = made_once("rows", [room, WINDOW], lay_out)
        self._layouts = {split: Layout.open(directory / split) for split in stores}

    @override
    def examples(self, store: Store) -> Examples:
        if not self.spec.data.packing:
            return Sequences(store, self)
        return PackedRows(store, self._layouts[store.facts["split"]], self)

    @abstractmethod
    def collate(self, tokens: Integers, indices: Integers, epochs: Integers) -> Batch:
        """Sequences to a batch.

        Args:
            tokens: Token ids, shape [samples, length].
            indices: Number of each sequence, shape [samples].
            epochs: How often each was seen before, shape [samples].
        """

    @property
    def filler(self) -> int:
        """Token at the end of a row that is not full: one that is never hidden."""
        pad = self.tokenizer.pad_token_id
        return next(iter(self.tokenizer.all_special_ids), 0) if pad is None else int(pad)

    def apart(self, batch: Batch, lengths: Sequence[Integers]) -> Batch:
        """A batch of rows that hold several pieces each.

        Args:
            batch: The rows as they are collated.
            lengths: Tokens of the pieces of each row.
        """
        each = np.concatenate(lengths)
        return replace(
            batch,
            inputs={**batch.inputs, "position_ids": positions(lengths)},
            tokens=int(each.sum()),
            pairs=int((each**2).sum()),
        )

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        return {"loss": measured.loss, "perplexity": exp(min(measured.loss, 50.0))}
