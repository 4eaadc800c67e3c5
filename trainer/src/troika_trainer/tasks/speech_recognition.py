"""SpeechRecognition: characters out of sound by CTC (wav2vec 2.0, HuBERT, WavLM, ...)."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import jiwer
import numpy as np
import torch
from torch.nn.functional import ctc_loss, log_softmax
from transformers import AutoModelForCTC, PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import IGNORED, Batch, Examples, Integers
from troika_trainer.errors import ConfigError, DataError
from troika_trainer.flops import FlopCounter
from troika_trainer.report import Mistake, shortened, worst
from troika_trainer.rows import Row
from troika_trainer.shards import ColumnType, Example, Store
from troika_trainer.sounds import (
    DEFAULT_MAX_SECONDS,
    SOUND_COLUMNS,
    SoundStore,
    least_samples,
    read_sound,
    require_a_frame,
    spans_that_fit,
    stored,
)
from troika_trainer.speech import Speech, TranscriptReport, transcript_of

from .base import FinetuneTask, Measured, no_predictions

MAX_UNKNOWN = 0.1
"""Share of characters that a vocabulary may lack before it is taken for the wrong one."""


class Transcribed:
    """Clips of many lengths with what is said in them."""

    def __init__(self, store: Store, task: "SpeechRecognition") -> None:
        self._sounds = SoundStore(store, task.preprocessor.feature_extractor)
        self._labels = store["labels"]
        self._text = store["text"]

    def __len__(self) -> int:
        return len(self._sounds)

    def lengths(self, indices: Integers) -> Integers:
        """Tokens of 20 ms of each clip. Shape [samples]."""
        return self._sounds.tokens(indices)

    def file(self, index: int) -> str:
        """Where a clip is from."""
        return self._sounds.file(index)

    def transcripts(self, count: int) -> list[str]:
        """What is said in the first `count` clips."""
        return [bytes(self._text[index]).decode() for index in range(count)]

    def batch(self, indices: Integers, epochs: Integers) -> Batch:  # noqa: ARG002 - the same in each
        """These clips, padded to the longest of them."""
        lengths = self.lengths(indices)
        wanted = [self._labels[int(index)] for index in indices]
        counts = np.array([len(part) for part in wanted])
        labels = np.full((len(indices), counts.max()), IGNORED, dtype=np.int64)
        labels[np.arange(counts.max()) < counts[:, None]] = np.concatenate(wanted)
        samples = torch.from_numpy(self._sounds.samples[indices])
        return Batch(
            inputs={**self._sounds.features(indices), "samples": samples},
            labels=torch.from_numpy(labels),
            weight=int(counts.sum()),
            tokens=int(lengths.sum()),
            pairs=int((lengths**2).sum()),
        )


class SpeechRecognition(FinetuneTask):
    """The loss is CTC's, a character; the scores are word and character error rate."""

    auto_model = AutoModelForCTC
    pipeline_tag = "automatic-speech-recognition"
    preprocessing = Speech()

    @property
    def blank(self) -> int:
        """The token that stands for no character."""
        found = self.preprocessor.tokenizer.pad_token_id
        if found is None:
            raise ConfigError("CTC needs a tokenizer with a padding token: it is the blank")
        return int(found)

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        return {**SOUND_COLUMNS, "labels": ColumnType("int32"), "text": ColumnType("uint8")}

    @override
    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:
        """Refuse a vocabulary that the transcripts are not written in."""
        tokenizer = self.preprocessor.tokenizer
        found = Counter("".join(transcript_of(row, self._column) for row in rows))
        unknown = {
            character: count
            for character, count in found.items()
            if tokenizer.unk_token_id in tokenizer(character).input_ids
        }
        if sum(unknown.values()) > MAX_UNKNOWN * found.total():
            raise DataError(
                f"column {self._column!r}: the model's vocabulary lacks "
                f"{sum(unknown.values()) / found.total():.0%} of the characters, such as "
                + " ".join(sorted(unknown, key=unknown.__getitem__, reverse=True)[:10]),
                "write the transcripts as the model does (upper or lower case?), or start from a "
                "model without a tokenizer: its vocabulary is learnt from the transcripts",
            )
        return {}

    @cached_property
    def _least(self) -> int:
        return least_samples(self.run)

    @property
    def _column(self) -> str:
        return self.spec.data.columns.transcript

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        rate = self.preprocessor.feature_extractor.sampling_rate
        longest = self.spec.data.max_seconds or DEFAULT_MAX_SECONDS
        column = self.spec.data.columns.audio
        for row in rows:
            samples = read_sound(row, column, rate)
            require_a_frame(samples, self._least, rate, row)
            if len(samples) > longest * rate:
                raise row.error(
                    f"the clip lasts {len(samples) / rate:.1f} s, longer than data.maxSeconds "
                    f"{longest:g}: cut clip and transcript together, or raise data.maxSeconds"
                )
            text = transcript_of(row, self._column)
            labels = self.preprocessor.tokenizer(text).input_ids
            raw = np.frombuffer(text.encode(), dtype=np.uint8)
            yield {**stored(samples, row, column), "labels": np.asarray(labels), "text": raw}

    @override
    def examples(self, store: Store) -> Transcribed:
        return Transcribed(store, self)

    @override
    def model_settings(self) -> dict[str, Any]:
        return {"vocab_size": len(self.preprocessor.tokenizer), "pad_token_id": self.blank}

    @override
    def flop_counter(self, model: PreTrainedModel) -> FlopCounter | None:
        return None  # Convolutions over the samples are a large part of these models.

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = dict(batch.inputs)
        samples = inputs.pop("samples")
        with spans_that_fit(model, inputs):
            logits: torch.Tensor = model(**inputs).logits.float()
        frames = self._frames(model, samples, logits.shape[1])
        real = batch.labels != IGNORED
        loss = ctc_loss(
            log_softmax(logits, dim=-1).transpose(0, 1),
            batch.labels[real],
            frames,
            real.sum(-1),
            blank=self.blank,
            reduction="sum",
            # A transcript with more characters than frames has no path; it must not spoil the rest.
            zero_infinity=True,
        )
        if model.training:
            return loss, no_predictions(batch)
        inside = torch.arange(logits.shape[1], device=frames.device) < frames[:, None]
        return loss, logits.argmax(-1).where(inside, self.blank)

    def _frames(self, model: PreTrainedModel, samples: torch.Tensor, most: int) -> torch.Tensor:
        """Frames of each clip without its padding. Shape [samples]."""
        counted: Any = getattr(model, "_get_feat_extract_output_lengths", None)
        if counted is None:
            return torch.full_like(samples, most)
        frames: torch.Tensor = counted(samples).long()
        return frames.clamp(1, most)

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        said, heard = self._texts(measured, examples)
        return {"loss": measured.loss, "wer": jiwer.wer(said, heard), "cer": jiwer.cer(said, heard)}

    @override
    def report(self, measured: Measured, examples: Examples) -> TranscriptReport:
        said, heard = self._texts(measured, examples)
        assert isinstance(examples, Transcribed)
        return TranscriptReport.of(said, heard, examples.file)

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        assert isinstance(examples, Transcribed)
        said, heard = self._texts(measured, examples)
        rates = np.array([jiwer.wer(*pair) for pair in zip(said, heard, strict=True)])
        return worst(
            rates,
            lambda index: Mistake(
                row=index + 1,
                text=examples.file(index),
                expected=shortened(said[index]),
                predicted=shortened(heard[index]),
                measure="word error rate",
                value=float(rates[index]),
            ),
        )

    def _texts(self, measured: Measured, examples: Examples) -> tuple[list[str], list[str]]:
        """What was said, and what was heard."""
        assert isinstance(examples, Transcribed)
        ids = np.where(measured.predictions == IGNORED, self.blank, measured.predictions)
        heard = self.preprocessor.tokenizer.batch_decode(ids)
        return examples.transcripts(len(ids)), list(heard)
