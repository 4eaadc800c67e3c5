"""Seq2Seq: write one text from another (translation, summarisation) with an encoder-decoder."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from torch.nn.functional import pad
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from typing_extensions import override

from troika_api.contract import Score
from troika_trainer.batch import (
    IGNORED,
    Batch,
    Examples,
    Integers,
    places_of,
    with_decoder_inputs,
)
from troika_trainer.errors import ConfigError
from troika_trainer.flops import FlopCounter, two_sided_counter
from troika_trainer.heads import Head
from troika_trainer.model import longest_input
from troika_trainer.report import Mistake, shortened, worst
from troika_trainer.rows import Row
from troika_trainer.runfile import Run
from troika_trainer.shards import ColumnType, Example, Store

from .base import Measured, no_predictions, smallest_dtype
from .languages import bleu, is_multilingual, set_languages, write_target_language
from .texts import TextTask, mask_of, padded

DEFAULT_NEW_TOKENS = 128


class Pairs:
    """Tokenized sources with their targets, and the targets as they stand in the data."""

    def __init__(self, store: Store, *, pad_id: int) -> None:
        self._sources, self._targets = store["input_ids"], store["target_ids"]
        self._texts = store["target"]
        self._pad_id = pad_id

    def __len__(self) -> int:
        return len(self._sources)

    def lengths(self, indices: Integers) -> Integers:
        """Tokens of source and target together. Shape [samples]."""
        both = self._sources.lengths[indices] + self._targets.lengths[indices]
        return np.asarray(both)

    def batch(self, indices: Integers, epochs: Integers) -> Batch:  # noqa: ARG002 - the same in each
        """These pairs; the labels are the target's tokens."""
        sources, targets = self._sources.lengths[indices], self._targets.lengths[indices]
        real = np.arange(sources.max())[None, :] < sources[:, None]
        wanted = np.arange(targets.max())[None, :] < targets[:, None]
        labels = padded(self._targets, indices, wanted, IGNORED)
        return Batch(
            inputs={
                "input_ids": padded(self._sources, indices, real, self._pad_id),
                **mask_of(real),
            },
            labels=labels,
            places=places_of(labels),
            weight=int(targets.sum()),
            tokens=int(sources.sum() + targets.sum()),
            # The encoder looks at the source, the decoder at itself and at the source.
            pairs=int((sources**2 + targets**2 + sources * targets).sum()),
        )

    def source(self, index: int) -> Integers:
        """The tokens of one source. Shape [tokens]."""
        found: Integers = self._sources[index]
        return found

    def references(self) -> list[str]:
        """The target of every example, uncut."""
        return [bytes(self._texts[index]).decode() for index in range(len(self))]


@dataclass(frozen=True)
class WritingReport:
    """How the scores were computed, so that others can be compared with them."""

    bleu: str
    """sacreBLEU's signature."""
    chrf: str

    @property
    def classes(self) -> list[Score]:
        """There are none."""
        return []

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {"signatures": asdict(self)}

    def as_text(self) -> str:
        """For people."""
        return f"BLEU {self.bleu}\nchrF {self.chrf}\n"


class Seq2Seq(TextTask):
    """Fine-tunes an encoder-decoder; evaluation writes, and compares with what was wanted."""

    auto_model = AutoModelForSeq2SeqLM
    pipeline_tag = "translation"
    held_out_by = ("source",)

    def __init__(self, run: Run, preprocessor: Any) -> None:
        super().__init__(run, preprocessor)
        data = self.spec.data
        set_languages(self.tokenizer, data.source_language, data.target_language)

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        ids = ColumnType(smallest_dtype(len(self.tokenizer)))
        return {"input_ids": ids, "target_ids": ids, "target": ColumnType("uint8")}

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        data = self.spec.data
        prefix, limit = data.prefix or "", data.max_target_length or self.max_length
        texts = [row.text(data.columns.target) for row in rows]
        sources = self.tokenizer(
            [prefix + row.text(data.columns.source) for row in rows],
            truncation=True,
            max_length=self.max_length,
        )
        targets = self.tokenizer(text_target=texts, truncation=True, max_length=limit)
        for row, text, source, target in zip(
            rows, texts, sources["input_ids"], targets["input_ids"], strict=True
        ):
            if not source or not text.strip():
                raise row.error("expected a source and a target that are not empty")
            yield {
                "input_ids": np.asarray(source),
                "target_ids": np.asarray(target),
                "target": np.frombuffer(text.encode(), dtype=np.uint8),
            }

    @override
    def limits(self) -> dict[str, int]:
        limit = self.spec.data.max_target_length or self.max_length
        return {**super().limits(), "target_ids": limit}

    @override
    def examples(self, store: Store) -> Pairs:
        return Pairs(store, pad_id=self.pad_id)

    @override
    def flop_counter(self, model: PreTrainedModel) -> FlopCounter | None:
        return two_sided_counter(model)

    @override
    def attach(self, model: PreTrainedModel) -> None:
        if is_multilingual(self.tokenizer):
            write_target_language(model, self.tokenizer)
        if not model.config.is_encoder_decoder or model.config.decoder_start_token_id is None:
            raise ConfigError(
                f"{type(model).__name__}: Seq2Seq needs an encoder-decoder whose configuration has "
                "a decoder_start_token_id",
                "start from a model such as T5, BART, mBART or NLLB",
            )
        self._head = Head(model)
        self._new_tokens = self._most_new_tokens(longest_input(model))

    def _most_new_tokens(self, positions: int | None) -> int:
        """Tokens that are written for a source.

        Args:
            positions: That the decoder can tell apart; None where there is no limit.

        Raises:
            ConfigError: the run asks for targets, or for texts, that are longer.
        """
        data, told = self.spec.data, self.spec.evaluation.max_new_tokens
        asked = {
            "data.maxTargetLength": data.max_target_length,
            "evaluation.maxNewTokens": told,
        }
        for field, length in asked.items():
            if positions is not None and length is not None and length > positions:
                raise ConfigError(
                    f"{field} {length} is longer than the {positions} positions of the model",
                    f"set it to {positions} or less",
                )
        return told or min(DEFAULT_NEW_TOKENS, positions or DEFAULT_NEW_TOKENS)

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        smoothing = self.spec.loss.label_smoothing or 0.0
        loss = self._head.loss(
            model,
            with_decoder_inputs(batch, model.config),
            batch.where,
            batch.labels[batch.where],
            smoothing=smoothing if model.training else 0.0,  # so that runs compare
        )
        return loss, no_predictions(batch) if model.training else self._written(model, batch)

    def _written(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """What the model writes. Shape [samples, 1 + most new tokens]."""
        limit, beams = self._new_tokens, self.spec.evaluation.beams or 1
        # Where it is given no mask it takes what looks like padding for padding.
        inputs = {"attention_mask": torch.ones_like(batch.inputs["input_ids"]), **batch.inputs}
        written: torch.Tensor = model.generate(  # type: ignore[operator]
            **inputs, max_new_tokens=limit, num_beams=beams, do_sample=False
        )
        return pad(written, (0, 1 + limit - written.shape[1]), value=self.pad_id)

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        assert isinstance(examples, Pairs)
        written = self.tokenizer.batch_decode(measured.predictions, skip_special_tokens=True)
        wanted = [examples.references()[: len(written)]]
        return {
            "loss": measured.loss,
            "bleu": float(self._bleu().corpus_score(written, wanted).score),
            "chrf": float(CHRF().corpus_score(written, wanted).score),
        }

    def _bleu(self) -> BLEU:
        told = self.spec.data.target_language
        return bleu(told or getattr(self.tokenizer, "tgt_lang", None))

    @override
    def report(self, measured: Measured, examples: Examples) -> WritingReport:
        signatures = []
        for metric in (self._bleu(), CHRF()):
            metric.corpus_score([""], [[""]])  # it counts the references of a text before it signs
            signatures.append(str(metric.get_signature()))
        return WritingReport(*signatures)

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        assert isinstance(examples, Pairs)
        written = self.tokenizer.batch_decode(measured.predictions, skip_special_tokens=True)
        wanted = examples.references()[: len(written)]
        chrf = CHRF()
        scores = [
            float(chrf.sentence_score(mine, [right]).score)
            for mine, right in zip(written, wanted, strict=True)
        ]
        return worst(
            100.0 - np.array(scores),
            lambda index: Mistake(
                row=index + 1,
                text=shortened(self._source(examples, index)),
                expected=shortened(wanted[index]),
                predicted=shortened(written[index]),
                measure="chrF",
                value=scores[index],
            ),
        )

    def _source(self, examples: Pairs, index: int) -> str:
        ids = examples.source(index).tolist()
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))
