"""Preference: prefer the chosen answer to the rejected one (direct preference optimisation).

The reference that the model is held to is the model as it starts. Its log-probabilities do not
change, so they are computed once, before the first step, and no second model is kept.
"""

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import IGNORED, Batch, Examples, Integers, places_of
from troika_trainer.errors import DataError
from troika_trainer.report import Mistake, shortened, worst
from troika_trainer.rows import Row
from troika_trainer.shards import NUMBERED, ROW, ColumnType, Example, Store

from .base import Look, Measured, no_predictions, smallest_dtype
from .chat import ConversationTask
from .conversation import Ids, Tokens, pair_in
from .texts import padded

log = logging.getLogger(__name__)

DEFAULT_BETA = 0.1
ANSWERS = ("chosen", "rejected")


class Preferences:
    """Tokenized pairs of answers to one prompt."""

    def __init__(self, store: Store, *, pad_id: int) -> None:
        self._ids = [store[f"{name}_ids"] for name in ANSWERS]
        self._answer = [store[f"{name}_answer"] for name in ANSWERS]
        self._pad_id = pad_id
        self.row = store.row
        self._lengths = np.stack([column.lengths for column in self._ids])
        if not len(self):
            raise DataError(
                f"no row of the {store.facts['split']} split has both answers within "
                "data.maxLength",
                "raise data.maxLength",
            )
        self.reference: npt.NDArray[np.float32] = np.zeros((len(self), 2), dtype=np.float32)
        """Log-probability of both answers under the model as it started. Shape [examples, 2]."""

    def __len__(self) -> int:
        return int(self._lengths.shape[1])

    def pair(self, index: int) -> tuple[Tokens, Tokens]:
        """The chosen and the rejected answer, each with the prompt."""
        chosen, rejected = (
            Tokens(ids[index], answer[index].astype(bool))
            for ids, answer in zip(self._ids, self._answer, strict=True)
        )
        return chosen, rejected

    def lengths(self, indices: Integers) -> Integers:
        """Tokens of the longer of the two, with the prompt. Shape [samples]."""
        return np.asarray(self._lengths[:, indices].max(axis=0))

    def batch(self, indices: Integers, epochs: Integers) -> Batch:  # noqa: ARG002 - the same in each
        """These pairs. Inputs and labels have the shape [samples, 2, tokens], chosen first."""
        width = int(self.lengths(indices).max())
        parts = [self._padded(answer, indices, width) for answer in range(2)]
        ids, real, labels = (torch.stack(part, dim=1) for part in zip(*parts, strict=True))
        lengths = self._lengths[:, indices]
        return Batch(
            inputs={
                "input_ids": ids,
                **({} if real.all() else {"attention_mask": real}),
                "reference": torch.from_numpy(self.reference[indices]),
            },
            labels=labels,
            places=places_of(labels.flatten(0, 1)),
            weight=len(indices),
            tokens=int(lengths.sum()),
            pairs=int((lengths**2).sum()),
        )

    def _padded(
        self, answer: int, indices: Integers, width: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        real = np.arange(width)[None, :] < self._lengths[answer, indices][:, None]
        ids = padded(self._ids[answer], indices, real, self._pad_id)
        said = padded(self._answer[answer], indices, real, 0).bool()
        labels = ids.masked_fill(~said, IGNORED)[:, 1:]
        return ids, torch.from_numpy(real.astype(np.int64)), labels


class Preference(ConversationTask):
    """Fine-tunes on pairs of answers of which one is preferred."""

    one_prediction_each = True
    dropout = 0.0  # the reference is measured without: its noise would pass for a reward

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        ids, mark = ColumnType(smallest_dtype(len(self.tokenizer))), ColumnType("uint8")
        return {
            **{f"{name}_ids": ids for name in ANSWERS},
            **{f"{name}_answer": mark for name in ANSWERS},
            ROW: NUMBERED,
        }

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        columns, left_out = self.spec.data.columns, 0
        pairs = [pair_in(row, columns) for row in rows]
        made = [self.conversation_tokens([pair[side] for pair in pairs], rows) for side in (0, 1)]
        for row, *pair in zip(rows, *made, strict=True):
            if all(tokens.answer[1:].any() for tokens in pair):
                yield {
                    f"{name}_{part}": array
                    for name, tokens in zip(ANSWERS, pair, strict=True)
                    for part, array in (("ids", tokens.ids), ("answer", tokens.answer))
                } | {ROW: np.asarray(row.place)}
            else:
                left_out += 1
        if left_out:
            log.warning(
                "%d of %d rows left out: an answer begins after data.maxLength %d tokens",
                left_out,
                len(rows),
                self.max_length,
            )

    @override
    def limits(self) -> dict[str, int]:
        return {f"{name}_ids": self.max_length for name in ANSWERS}

    @override
    def examples(self, store: Store) -> Preferences:
        return Preferences(store, pad_id=self.pad_id)

    @override
    def first_look(self, examples: Examples, look: Look) -> None:
        assert isinstance(examples, Preferences)
        examples.reference = look(examples).astype(np.float32)

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        policy = self._log_probabilities(model, batch)
        spec = self.spec.loss
        loss = preference_loss(
            rewards(policy, batch.inputs["reference"], spec.beta or DEFAULT_BETA),
            smoothing=(spec.label_smoothing or 0.0) if model.training else 0.0,
        )
        return loss, no_predictions(batch) if model.training else policy

    def _log_probabilities(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Of the chosen and the rejected answer, summed over their tokens. Shape [samples, 2]."""
        inputs = {
            name: value.flatten(0, 1) for name, value in batch.inputs.items() if name != "reference"
        }
        labels = batch.labels.flatten(0, 1)
        where = batch.where
        flat = Batch(inputs, labels, batch.weight, batch.tokens, batch.pairs)
        logits = self._head.logits(model, flat, where)
        costs = cross_entropy(logits, labels[where], reduction="none")
        summed = torch.zeros(len(labels), device=costs.device).index_add_(0, where[0], -costs)
        return summed.view(-1, 2)

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        """`margin` is the mean difference of the rewards, `accuracy` how often it is above 0."""
        margins = self._margins(measured, examples)
        return {
            "loss": measured.loss,
            "accuracy": float((margins > 0).mean()),
            "margin": float(margins.mean()),
        }

    def _margins(self, measured: Measured, examples: Examples) -> npt.NDArray[np.float32]:
        """By how much the chosen answer of each pair is worth more. Shape [samples]."""
        assert isinstance(examples, Preferences)
        policy = torch.from_numpy(measured.predictions)
        reference = torch.from_numpy(examples.reference[: len(policy)])
        worth = rewards(policy, reference, self.spec.loss.beta or DEFAULT_BETA)
        return (worth[:, 0] - worth[:, 1]).numpy()

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        """The pairs of which the model most prefers the rejected answer: that is its prediction."""
        assert isinstance(examples, Preferences)
        margins = self._margins(measured, examples)

        def shown(index: int) -> Mistake:
            chosen, rejected = examples.pair(index)
            part = first_difference(chosen.ids, rejected.ids)
            prompt, better = self.said(chosen, part)
            return Mistake(
                row=examples.row(index),
                text=shortened(prompt),
                expected=shortened(better),
                predicted=shortened(self.said(rejected, part)[1]),
                measure="margin",
                value=float(margins[index]),
            )

        return worst(-margins, shown)


def first_difference(one: Ids, other: Ids) -> int:
    """Where two sequences begin to differ: at the end of the shorter one at the latest."""
    shorter = min(len(one), len(other))
    places = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(places[0]) if len(places) else shorter


def rewards(policy: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """What the answers are worth to the model: how much likelier than at the start it finds them.

    Args:
        policy: Log-probabilities of chosen and rejected answers, shape [samples, 2].
        reference: The same under the model as it started.
        beta: Strength of the tie to the reference.
    """
    return beta * (policy - reference)


def preference_loss(rewards: torch.Tensor, *, smoothing: float) -> torch.Tensor:
    """Summed loss of direct preference optimisation, shape []; arXiv:2305.18290, equation 7.

    Args:
        rewards: Of chosen and rejected answers, shape [samples, 2].
        smoothing: Probability that a pair is the wrong way round.
    """
    margin = rewards[:, 0] - rewards[:, 1]
    return -((1.0 - smoothing) * logsigmoid(margin) + smoothing * logsigmoid(-margin)).sum()
