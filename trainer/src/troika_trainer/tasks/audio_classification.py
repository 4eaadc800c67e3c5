"""AudioClassification: one class for a clip (wav2vec 2.0, HuBERT, WavLM, AST, ...)."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import torch
from transformers import AutoModelForAudioClassification, PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import Batch, Examples, Integers
from troika_trainer.flops import FlopCounter
from troika_trainer.report import Mistake
from troika_trainer.rows import Row
from troika_trainer.shards import ColumnType, Example, Store
from troika_trainer.sounds import (
    DEFAULT_MAX_SECONDS,
    SOUND_COLUMNS,
    Sounds,
    SoundStore,
    least_samples,
    read_sound,
    require_a_frame,
    spans_that_fit,
    stored,
)

from .base import Measured
from .classes import LABEL_COLUMN, ClassTask, labels_of, worst_classes


class LabelledSounds:
    """Clips of many lengths, each with its class."""

    def __init__(self, store: Store, task: "AudioClassification") -> None:
        self._sounds = SoundStore(store, task.preprocessor)
        self.labels = labels_of(store)
        """Class of every clip, shape [examples]."""

    def __len__(self) -> int:
        return len(self._sounds)

    def file(self, index: int) -> str:
        """Where a clip is from."""
        return self._sounds.file(index)

    def lengths(self, indices: Integers) -> Integers:
        """Tokens of 20 ms of each clip. Shape [samples]."""
        return self._sounds.tokens(indices)

    def batch(self, indices: Integers, epochs: Integers) -> Batch:  # noqa: ARG002 - the same in each
        """These clips, padded to the longest of them."""
        lengths = self.lengths(indices)
        return Batch(
            inputs=self._sounds.features(indices),
            labels=torch.from_numpy(self.labels[indices]),
            weight=len(indices),
            tokens=int(lengths.sum()),
            pairs=int((lengths**2).sum()),
        )


class AudioClassification(ClassTask):
    """Fine-tunes a model on sound with a classification head; long clips are cut at the end."""

    auto_model = AutoModelForAudioClassification
    pipeline_tag = "audio-classification"
    one_prediction_each = True
    preprocessing = Sounds()

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        return {**SOUND_COLUMNS, **LABEL_COLUMN}

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        rate = self.preprocessor.sampling_rate
        longest = int((self.spec.data.max_seconds or DEFAULT_MAX_SECONDS) * rate)
        column = self.spec.data.columns.audio
        for row in rows:
            samples = read_sound(row, column, rate)[:longest]
            require_a_frame(samples, self._least, rate, row)
            yield {**stored(samples, row, column), "label": self.class_of(row)}

    @cached_property
    def _least(self) -> int:
        return least_samples(self.run)

    @override
    def examples(self, store: Store) -> LabelledSounds:
        return LabelledSounds(store, self)

    @override
    def truth(self, examples: Examples) -> Integers:
        assert isinstance(examples, LabelledSounds)
        return examples.labels

    @override
    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        return batch.inputs

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        with spans_that_fit(model, batch.inputs):
            return super().forward(model, batch)

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        assert isinstance(examples, LabelledSounds)
        return worst_classes(measured, examples.labels, self.names, examples.file)

    @override
    def flop_counter(self, model: PreTrainedModel) -> FlopCounter | None:
        return None  # Convolutions over the samples are a large part of these models.
