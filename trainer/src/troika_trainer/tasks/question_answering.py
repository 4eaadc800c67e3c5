"""QuestionAnswering: find the answer in a text; long texts are read in overlapping windows."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForQuestionAnswering, BatchEncoding, PreTrainedModel
from typing_extensions import override

from troika_trainer.answers import Answer, AnswerReport, answer_report, scored
from troika_trainer.batch import IGNORED, Batch, Examples, Integers
from troika_trainer.errors import DataError
from troika_trainer.report import Mistake, shortened, worst
from troika_trainer.rows import Row
from troika_trainer.shards import Array, ColumnType, Example, Store

from .base import Measured, no_predictions
from .texts import Texts, TextTask
from .weighing import Weighing

NOWHERE = -1
"""Offset of a token that is not of the context."""


class Windows(Texts):
    """Questions with a piece of their context each; the pieces of one question are neighbours."""

    def __init__(self, store: Store, *, pad_id: int) -> None:
        super().__init__(store, pad_id=pad_id)
        self._span = store["span"]
        self._offsets = store["offsets"]
        self._asked = store["asked"]
        first = np.asarray(self._asked.lengths > 0)
        self.question_of = np.cumsum(first) - 1
        """Number of the question that a window belongs to. Shape [windows]."""
        self._first = np.flatnonzero(first)

    def asked(self) -> Iterator[tuple[str, str, list[str]]]:
        """Question, context and right answers, question by question."""
        for window in self._first:
            asked = json.loads(self._asked[int(window)].tobytes())
            yield asked["question"], asked["context"], asked["answers"]

    def characters(self, window: int, start: int, end: int) -> slice:
        """Where the tokens from `start` to `end` (inclusive) stand in the context."""
        offsets = self._offsets[window].reshape(-1, 2)
        return slice(int(offsets[start, 0]), int(offsets[end, 1]))

    @override
    def targets(self, indices: Integers, real: Any) -> tuple[torch.Tensor, int]:
        """First and last token of the answer. Shape [samples, 2, tokens].

        1 at the place, 0 at the other tokens of the context and at the first token, which
        stands for "not in this window"; `IGNORED` at tokens that can be neither.
        """
        labels = np.full((len(indices), 2, real.shape[1]), IGNORED, dtype=np.int64)
        for row, index in enumerate(indices):
            offsets = self._offsets[int(index)].reshape(-1, 2)
            labels[row][:, np.flatnonzero(offsets[:, 0] != NOWHERE)] = 0
            labels[row, :, 0] = 0
            labels[row, [0, 1], self._span[int(index)]] = 1
        return torch.from_numpy(labels), len(indices)


class QuestionAnswering(TextTask):
    """Fine-tunes a model that marks where an answer begins and where it ends."""

    auto_model = AutoModelForQuestionAnswering
    pipeline_tag = "question-answering"
    held_out_by = ("context",)
    may_be_unanswerable: bool
    """Whether there are questions in training that their context does not answer."""

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        return {
            **self.token_columns,
            "span": ColumnType("int32"),
            "offsets": ColumnType("int32"),
            "asked": ColumnType("uint8"),
        }

    @override
    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:
        answered = {bool(self._answers(row)) for row in rows}
        if True not in answered:
            raise DataError(
                f"no row of the training split has an answer in column {self._column!r}",
                "check data.columns.answers",
            )
        return {"may_be_unanswerable": False in answered}

    @override
    def adopt(self, facts: dict[str, Any]) -> None:
        self.may_be_unanswerable = bool(facts["may_be_unanswerable"])
        self._weighing = Weighing(self.spec.loss)

    @property
    def _column(self) -> str:
        return self.spec.data.columns.answers

    def _answers(self, row: Row) -> list[tuple[str, int]]:
        """Each right answer with its first character."""
        value = row.value(self._column)
        texts = value.get("text") if isinstance(value, dict) else None
        starts = value.get("answer_start") if isinstance(value, dict) else None
        if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
            raise row.error(
                f"column {self._column!r}: expected {{text: [...], answer_start: [...]}} with as "
                f"many starts as texts, got {json.dumps(value, default=str)[:80]}"
            )
        context = row.text(self.spec.data.columns.context)
        for text, start in zip(texts, starts, strict=True):
            if not isinstance(text, str) or not text or not isinstance(start, int):
                raise row.error(f"column {self._column!r}: expected texts with whole numbers")
            if context[start : start + len(text)] != text:
                raise row.error(
                    f"column {self._column!r}: the answer is {text[:60]!r}, but the context has "
                    f"{context[start : start + len(text)][:60]!r} at character {start}"
                )
        return list(zip(texts, starts, strict=True))

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        part = self.spec.data.columns
        questions = [row.text(part.question).strip() for row in rows]
        contexts = [row.text(part.context) for row in rows]
        answers = [self._answers(row) for row in rows]
        self._check_room(rows, questions)
        encoded = self.tokenize(
            questions,
            contexts,
            truncation="only_second",
            stride=self._stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        before = -1
        for window, number in enumerate(encoded["overflow_to_sample_mapping"]):
            offsets = context_offsets(encoded, window)
            asked = {
                "question": questions[number],
                "context": contexts[number],
                "answers": [text for text, _ in answers[number]],
            }
            text = json.dumps(asked).encode() if number != before else b""
            before = number
            yield {
                **self.tokens_of(encoded, window),
                "span": span(offsets, answers[number][0] if answers[number] else None),
                "offsets": offsets.flatten(),
                "asked": np.frombuffer(text, dtype=np.uint8),
            }

    @property
    def _stride(self) -> int:
        stride = self.spec.data.stride
        return self.max_length // 4 if stride is None else stride

    def _check_room(self, rows: Sequence[Row], questions: list[str]) -> None:
        """A question leaves room for more context than two windows share."""
        used = self.tokenizer.num_special_tokens_to_add(pair=True) + self._stride
        room = self.max_length - used - 1
        encoded = self.tokenizer(questions, add_special_tokens=False)["input_ids"]
        for row, tokens in zip(rows, encoded, strict=True):
            if len(tokens) > room:
                raise DataError(
                    f"{row.path}, line {row.line}, column {self.spec.data.columns.question!r}: "
                    f"the question has {len(tokens)} tokens; data.maxLength "
                    f"{self.max_length} with data.stride {self._stride} has room for "
                    f"{room}",
                    "raise data.maxLength, lower data.stride, or drop the row",
                )

    @override
    def limits(self) -> dict[str, int]:
        return {}  # a long context is read in windows

    @override
    def examples(self, store: Store) -> Windows:
        return Windows(store, pad_id=self.pad_id)

    @override
    def model_settings(self) -> dict[str, Any]:
        return {"num_labels": 2}

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        output = model(**batch.inputs)
        logits = torch.stack([output.start_logits, output.end_logits], dim=1).float()
        possible = logits.masked_fill(batch.labels == IGNORED, -torch.inf)
        where = batch.labels.argmax(-1)
        loss = self._weighing.among(
            possible.flatten(0, 1), where.flatten(), training=model.training
        )
        return loss / 2, no_predictions(batch) if model.training else best_spans(possible)

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        report = self.report(measured, examples)
        return {"loss": measured.loss, "f1": report.f1, "exactMatch": report.exact_match}

    @override
    def report(self, measured: Measured, examples: Examples) -> AnswerReport:
        assert isinstance(examples, Windows)
        return answer_report(list(self._answered(measured.predictions, examples)))

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        assert isinstance(examples, Windows)
        answers = list(self._answered(measured.predictions, examples))
        return worst(
            1.0 - np.array([answer.f1 for answer in answers]),
            lambda index: Mistake(
                row=index + 1,
                text=shortened(answers[index].question),
                expected=shortened(" | ".join(answers[index].expected) or "(none)"),
                predicted=shortened(answers[index].predicted or "(none)"),
                measure="f1",
                value=answers[index].f1,
            ),
        )

    def _answered(self, predictions: Array, windows: Windows) -> Iterator[Answer]:
        """The best span over the windows of each question."""
        bounds = np.searchsorted(windows.question_of, np.arange(windows.question_of[-1] + 2))
        for number, (question, context, expected) in enumerate(windows.asked()):
            mine = predictions[bounds[number] : bounds[number + 1]]
            best = int(mine[:, 2].argmax())
            start, end, score, _ = mine[best]
            text = ""
            if not self.may_be_unanswerable or score > mine[:, 3].min():
                where = windows.characters(int(bounds[number]) + best, int(start), int(end))
                text = context[where].strip()
            yield scored(question, text, expected)


def context_offsets(encoded: BatchEncoding, window: int) -> Array:
    """Characters of each token in the context, `NOWHERE` for others. Shape [tokens, 2]."""
    offsets = np.array(encoded["offset_mapping"][window])
    of_context = np.array([part == 1 for part in encoded.sequence_ids(window)])
    return np.where(of_context[:, None], offsets, NOWHERE)


def span(offsets: Array, answer: tuple[str, int] | None) -> Array:
    """First and last token of an answer, or the first token of all where it is not in here whole.

    Args:
        offsets: Characters of each token in the context, shape [tokens, 2].
        answer: The text and its first character.
    """
    if answer is None:
        return np.zeros(2, dtype=np.int64)
    first, stop = answer[1], answer[1] + len(answer[0])
    inside = np.flatnonzero((offsets[:, 1] > first) & (offsets[:, 0] < stop))
    if not len(inside) or offsets[inside[-1], 1] < stop or offsets[inside[0], 0] > first:
        return np.zeros(2, dtype=np.int64)
    return inside[[0, -1]]


def best_spans(logits: torch.Tensor) -> torch.Tensor:
    """The best span of each window: the sum of two logits, the end not before the start.

    Args:
        logits: Of start and end, shape [windows, 2, tokens]; -inf where they cannot be.

    Returns:
        Start, end and score of the best span, and the score of the first token, which stands for
        "not here". Shape [windows, 4].
    """
    none = logits[:, :, 0].sum(1)
    # The best start up to each end: a table of all pairs would have tokens squared numbers.
    starts, at = logits[:, 0, 1:].cummax(1)
    score, end = (starts + logits[:, 1, 1:]).max(1)
    start = at.gather(1, end[:, None])[:, 0]
    return torch.stack([start + 1.0, end + 1.0, score, none], dim=1)
