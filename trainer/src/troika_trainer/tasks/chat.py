"""Chat: learn to answer. The loss is on what the assistant says, and on nothing else."""

import logging
from collections.abc import Iterable, Sequence
from math import exp
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import IGNORED, Batch, Examples, Integers, places_of
from troika_trainer.errors import DataError
from troika_trainer.heads import Head
from troika_trainer.packing import check_model, joined, positions
from troika_trainer.report import Mistake, shortened, worst
from troika_trainer.rows import Row
from troika_trainer.runfile import Run
from troika_trainer.shards import NUMBERED, ROW, ColumnType, Example, Store

from .base import Measured, no_predictions, smallest_dtype
from .conversation import Tokens, check_read, ensure_template, messages_in, tokenize, use_template
from .texts import TextTask, mask_of, padded
from .turns import ASSISTANT, Message

log = logging.getLogger(__name__)


class Conversations:
    """Tokenized conversations, each with a mark on the tokens that answer."""

    def __init__(self, store: Store, *, pad_id: int) -> None:
        self._ids, self._answer = store["input_ids"], store["answer"]
        self.row = store.row
        self._pad_id = pad_id
        if not len(self._ids):
            raise DataError(
                f"no row of the {store.facts['split']} split has an answer within data.maxLength",
                "raise data.maxLength",
            )

    def __len__(self) -> int:
        return len(self._ids)

    def tokens(self, index: int) -> Tokens:
        """One conversation."""
        return Tokens(self._ids[index], self._answer[index].astype(bool))

    def lengths(self, indices: Integers) -> Integers:
        """Tokens of each conversation. Shape [samples]."""
        return np.asarray(self._ids.lengths[indices])

    def batch(self, indices: Integers, epochs: Integers) -> Batch:  # noqa: ARG002 - the same in each
        """These conversations; position i is to predict the token at i + 1."""
        lengths = self.lengths(indices)
        real = np.arange(lengths.max())[None, :] < lengths[:, None]
        ids = padded(self._ids, indices, real, self._pad_id)
        answer = padded(self._answer, indices, real, 0).bool()
        labels = ids.masked_fill(~answer, IGNORED)[:, 1:].contiguous()
        places = places_of(labels)
        return Batch(
            inputs={"input_ids": ids, **mask_of(real)},
            labels=labels,
            places=places,
            weight=places.shape[1],
            tokens=int(lengths.sum()),
            pairs=int((lengths**2).sum()),
        )

    def packed(self, rows: list[Integers]) -> Batch:
        """These conversations, several in a row; none sees another."""
        lengths = [self.lengths(row) for row in rows]
        each = np.concatenate(lengths)
        ids = joined([[self._ids[int(index)] for index in row] for row in rows], fill=self._pad_id)
        answer = joined([[self._answer[int(i)] for i in row] for row in rows], fill=0).bool()
        begins = positions(lengths)
        # Nothing predicts the first token of a conversation.
        labels = ids.masked_fill(~answer | (begins == 0), IGNORED)[:, 1:].contiguous()
        places = places_of(labels)
        return Batch(
            inputs={"input_ids": ids, "position_ids": begins},
            labels=labels,
            places=places,
            weight=places.shape[1],
            tokens=int(each.sum()),
            pairs=int((each**2).sum()),
            packed=len(each),
        )


class ConversationTask(TextTask):
    """Works on conversations, with a chat template."""

    auto_model = AutoModelForCausalLM
    pipeline_tag = "text-generation"

    def __init__(self, run: Run, preprocessor: Any) -> None:
        super().__init__(run, preprocessor)
        if self.spec.data.chat_template is not None:
            use_template(self.tokenizer, self.spec.data.chat_template)

    def conversation_tokens(
        self, conversations: Sequence[list[Message]], rows: Sequence[Row]
    ) -> list[Tokens]:
        """Tokens of conversations, one for each row.

        Raises:
            DataError: one has no message of the assistant, or one that says more than is read.
        """
        ensure_template(self.tokenizer)
        for messages, row in zip(conversations, rows, strict=True):
            check_read(self.tokenizer, messages, row)
            if not any(message["role"] == ASSISTANT for message in messages):
                roles = ", ".join(message["role"] for message in messages) or "none"
                raise row.error(f"expected a message of the role assistant, got {roles}")
        return tokenize(self.tokenizer, conversations, limit=self.max_length)

    def said(self, tokens: Tokens, place: int = 0) -> tuple[str, str]:
        """A prompt and the answer to it, as text; `Tokens.parted` says which."""
        before, answer = (
            str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)).strip()
            for ids in tokens.parted(place)
        )
        return before, answer

    @override
    def attach(self, model: PreTrainedModel) -> None:
        ensure_template(self.tokenizer)
        self._head = Head(model)


class Chat(ConversationTask):
    """Supervised fine-tuning on conversations, or on prompts with their completions."""

    @property
    @override
    def packs(self) -> bool:
        return bool(self.spec.data.packing)

    @override
    def attach(self, model: PreTrainedModel) -> None:
        super().attach(model)
        if self.packs:
            check_model(model)

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        ids = ColumnType(smallest_dtype(len(self.tokenizer)))
        return {"input_ids": ids, "answer": ColumnType("uint8"), ROW: NUMBERED}

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        made = self.conversation_tokens([self._messages(row) for row in rows], rows)
        pairs = zip(made, rows, strict=True)
        kept = [(tokens, row.place) for tokens, row in pairs if tokens.answer[1:].any()]
        if len(kept) < len(made):
            log.warning(
                "%d of %d rows left out: their answers begin after data.maxLength %d tokens",
                len(made) - len(kept),
                len(made),
                self.max_length,
            )
        for tokens, number in kept:
            yield {"input_ids": tokens.ids, "answer": tokens.answer, ROW: np.asarray(number)}

    def _messages(self, row: Row) -> list[Message]:
        columns = self.spec.data.columns
        if columns.messages in row.values:
            return messages_in(row, columns.messages, role="user")
        return [
            *messages_in(row, columns.prompt, role="user"),
            *messages_in(row, columns.completion, role=ASSISTANT),
        ]

    @override
    def examples(self, store: Store) -> Conversations:
        return Conversations(store, pad_id=self.pad_id)

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        where = batch.where
        wanted = batch.labels[where]
        if model.training:
            smoothing = self.spec.loss.label_smoothing or 0.0
            loss = self._head.loss(model, batch, where, wanted, smoothing=smoothing)
            return loss, no_predictions(batch)
        logits = self._head.logits(model, batch, where)
        losses = cross_entropy(logits, wanted, reduction="none")
        scores = torch.stack([(logits.argmax(-1) == wanted).float(), losses], dim=-1)
        # Right tokens and summed loss of each conversation.
        found = scores.new_zeros(batch.samples, 2).index_add_(0, where[0], scores)
        return losses.sum(), found

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        return {
            "loss": measured.loss,
            "perplexity": exp(min(measured.loss, 50.0)),
            "accuracy": float(measured.predictions[:, 0].sum(dtype=np.float64))
            / max(measured.weight, 1),
        }

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        """The conversations whose answers surprised the model most; what it would say is not asked.

        That would be to write an answer to every prompt, which takes far longer than all else.
        """
        assert isinstance(examples, Conversations)
        counts = [examples.tokens(index).answer[1:].sum() for index in range(len(examples))]
        losses = measured.predictions[:, 1] / np.array(counts)

        def shown(index: int) -> Mistake:
            prompt, answer = self.said(examples.tokens(index))
            return Mistake(
                row=examples.row(index),
                text=shortened(prompt),
                expected=shortened(answer),
                predicted=None,
                measure="loss of a token of the answer",
                value=float(losses[index]),
            )

        return worst(losses, shown)
