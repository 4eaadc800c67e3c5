"""TokenClassification: a BIO tag for every word, such as the names in a sentence."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForTokenClassification, PreTrainedModel
from typing_extensions import override

from troika_trainer.batch import IGNORED, Batch, Examples, Integers
from troika_trainer.classnames import Names, number_in
from troika_trainer.errors import DataError
from troika_trainer.report import (
    ClassificationReport,
    Counts,
    Mistake,
    report_of,
    shortened,
    worst,
)
from troika_trainer.rows import Row
from troika_trainer.shards import NUMBERED, ROW, Array, ColumnType, Example, Store

from .base import Measured, while_measuring
from .classes import numbered_labels, ordered
from .texts import Texts, TextTask
from .weighing import Weighing

OUTSIDE = "O"
NO_WORD = -1

Entity = tuple[str, int, int]
"""Type, first word, and the word after the last."""


class TaggedTexts(Texts):
    """Sentences with the tag of every word."""

    def __init__(self, store: Store, *, pad_id: int) -> None:
        super().__init__(store, pad_id=pad_id)
        self._words = store["word"]
        self._tags = store["tags"]
        self.row = store.row

    def words(self, index: int) -> Array:
        """The word that a token begins, `NO_WORD` where it begins none. Shape [tokens]."""
        return self._words[index]

    def tags(self, index: int) -> Array:
        """The tag of every word, also of those that were cut off. Shape [words]."""
        return self._tags[index]

    @override
    def targets(self, indices: Integers, real: Any) -> tuple[torch.Tensor, int]:
        """The tag of a word at its first token. Shape [samples, tokens]."""
        labels = np.full(real.shape, IGNORED, dtype=np.int64)
        for row, index in enumerate(indices):
            words = self.words(int(index))
            at = np.flatnonzero(words != NO_WORD)
            labels[row, at] = self.tags(int(index))[words[at]]
        return torch.from_numpy(labels), int((labels != IGNORED).sum())


class TokenClassification(TextTask):
    """Fine-tunes a model with a head on every token; the first token of a word speaks for it."""

    auto_model = AutoModelForTokenClassification
    pipeline_tag = "token-classification"
    names: list[str]
    """Tags; their order is their number."""

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        return {
            **self.token_columns,
            "word": ColumnType("int32"),
            "tags": ColumnType("uint16"),
            ROW: NUMBERED,
        }

    @override
    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:
        words: Counter[str] = Counter()
        names: Names = ()
        for row in rows:
            names = names or row.names(self._tags, self.spec.data.labels)
            words.update(self._sentence(row)[1])
        types = ordered(types_of(words), types_of(names))
        if not types_of(words):
            raise DataError(
                f"no row of the training split has an entity in column {self._tags!r}: "
                f"every tag is {OUTSIDE}",
                "check data.columns.tags",
            )
        counts = [words[tag] for tag in tags_of(types)]
        return {"types": types, "words": counts, "names": list(names)}

    @override
    def widen(self, facts: dict[str, Any], held_out: Iterator[Row]) -> dict[str, Any]:
        tags = (tag for row in held_out for tag in self._sentence(row)[1])
        types = ordered([*facts["types"], *types_of(tags)], types_of(facts["names"]))
        words = dict(zip(tags_of(facts["types"]), facts["words"], strict=True))
        return {**facts, "types": types, "words": [words.get(tag, 0) for tag in tags_of(types)]}

    @override
    def adopt(self, facts: dict[str, Any]) -> None:
        self.types = list(facts["types"])
        self.names = tags_of(self.types)
        self._weighing = Weighing(
            self.spec.loss, dict(zip(self.names, facts["words"], strict=True))
        )

    @property
    def _tags(self) -> str:
        return self.spec.data.columns.tags

    def _sentence(self, row: Row) -> tuple[list[str], list[str]]:
        words, tags = row.words(self.spec.data.columns.tokens), self._named(row)
        if len(words) != len(tags):
            raise row.error(f"{len(words)} words but {len(tags)} tags: expected one tag a word")
        before = OUTSIDE
        for number, tag in enumerate(tags):
            mark, _, name = tag.partition("-")
            if tag != OUTSIDE and (mark not in ("B", "I") or not name):
                raise row.error(
                    f"column {self._tags!r}: tag {number} is {tag!r}, "
                    "expected O, B-TYPE or I-TYPE (BIO)"
                )
            if mark == "I" and before[2:] != name:
                raise row.error(
                    f"column {self._tags!r}: tag {number} is {tag!r} after {before!r}, "
                    f"expected B-{name}: an entity begins with B (BIO)"
                )
            before = tag
        return words, tags

    def _named(self, row: Row) -> list[str]:
        """The tags of a row, which may stand there as numbers."""
        told, value = self.spec.data.labels, row.value(self._tags)
        tags = value if isinstance(value, list) else row.words(self._tags)
        if not row.names(self._tags, told):
            for number, tag in enumerate(tags):
                if number_in(tag) is not None:
                    raise row.error(
                        f"column {self._tags!r}: tag {number} is {tag!r}, and nothing says what "
                        "this number means: expected O, B-TYPE or I-TYPE (BIO)",
                        "list the names of the numbers, from 0 on, in data.labels, such as "
                        "[O, B-PER, I-PER, B-LOC, I-LOC]",
                    )
            return row.words(self._tags)
        return [row.class_of(tag, self._tags, told) for tag in tags]

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        numbers = {name: number for number, name in enumerate(self.names)}
        sentences = [
            (*sentence, row.place) for row in rows if (sentence := self._numbered(row, numbers))[0]
        ]
        if not sentences:
            return
        encoded = self.tokenize(
            [" ".join(words) for words, *_ in sentences], return_offsets_mapping=True
        )
        for index, (words, tags, number) in enumerate(sentences):
            yield {
                **self.tokens_of(encoded, index),
                "word": first_tokens(words, np.asarray(encoded["offset_mapping"][index])),
                "tags": np.asarray(tags),
                ROW: np.asarray(number),
            }

    def _numbered(self, row: Row, numbers: dict[str, int]) -> tuple[list[str], list[int]]:
        words, tags = self._sentence(row)
        for tag in tags:
            if tag not in numbers:
                raise row.error(
                    f"column {self._tags!r}: type {tag[2:]!r} is not among those of the training "
                    "split: " + ", ".join(self.types[:20])
                )
        return words, [numbers[tag] for tag in tags]

    @override
    def examples(self, store: Store) -> TaggedTexts:
        return TaggedTexts(store, pad_id=self.pad_id)

    @override
    def model_settings(self) -> dict[str, Any]:
        return numbered_labels(self.names)

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits: torch.Tensor = model(**batch.inputs).logits.float()
        loss = self._weighing.loss(
            logits.flatten(0, 1), batch.labels.flatten(), training=model.training
        )
        return loss, while_measuring(model, batch, logits.argmax(-1))

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        report = self.report(measured, examples)
        return {
            "loss": measured.loss,
            "accuracy": report.accuracy,
            "f1": report.micro.f1,
            "f1Macro": report.macro.f1,
            "f1Weighted": report.weighted.f1,
            "precision": report.micro.precision,
            "recall": report.micro.recall,
        }

    @override
    def report(self, measured: Measured, examples: Examples) -> ClassificationReport:
        truth, predicted = self._tags_of(measured, examples)
        return entity_report(truth, predicted, self.types)

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        assert isinstance(examples, TaggedTexts)
        truth, predicted = self._tags_of(measured, examples)
        wrong = np.array(
            [
                len(entities(tags) ^ entities(found))
                for tags, found in zip(truth, predicted, strict=True)
            ]
        )
        return worst(
            wrong,
            lambda index: Mistake(
                row=examples.row(index),
                text=shortened(self.shown(examples, index)),
                expected=shortened(self._listed(examples, index, truth[index])),
                predicted=shortened(self._listed(examples, index, predicted[index])),
                measure="entities wrong",
                value=float(wrong[index]),
            ),
        )

    def _listed(self, examples: TaggedTexts, index: int, tags: list[str]) -> str:
        """The entities that the tags mean, such as `PER: Ada Lovelace; LOC: London`."""
        ids, words = examples.ids(index), examples.words(index)
        found = []
        for name, start, end in sorted(entities(tags), key=lambda entity: entity[1]):
            begin = np.flatnonzero(words == start)
            after = np.flatnonzero(words >= end)
            if not len(begin):
                found.append(f"{name}: (cut off)")
                continue
            part = ids[begin[0] : after[0] if len(after) else len(ids)].tolist()
            text = str(self.tokenizer.decode(part, skip_special_tokens=True))
            found.append(f"{name}: {text.strip()}")
        return "; ".join(found) or "(none)"

    def _tags_of(
        self, measured: Measured, examples: Examples
    ) -> tuple[list[list[str]], list[list[str]]]:
        """Tag of every word of every text: the true ones, and those that were found."""
        assert isinstance(examples, TaggedTexts)
        truth, predicted = [], []
        for index, of_tokens in enumerate(measured.predictions):
            tags, words = examples.tags(index), examples.words(index)
            at = np.flatnonzero(words != NO_WORD)
            found = np.zeros_like(tags)  # a word that was cut off is taken for O
            found[words[at]] = of_tokens[at]
            truth.append([self.names[tag] for tag in tags])
            predicted.append([self.names[tag] for tag in found])
        return truth, predicted


def types_of(tags: Iterable[str]) -> list[str]:
    """The types of entities in these tags, in the order in which they come first."""
    return list(dict.fromkeys(tag[2:] for tag in tags if tag[:2] in ("B-", "I-")))


def tags_of(types: Sequence[str]) -> list[str]:
    """The tags that these types of entities need; their order is their number."""
    return [OUTSIDE, *(f"{mark}-{name}" for name in types for mark in "BI")]


def first_tokens(words: Sequence[str], offsets: Array) -> Array:
    """Which token begins which word.

    Args:
        words: The words, which one blank apart make the text.
        offsets: First and last character (exclusive) of every token in it, shape [tokens, 2].

    Returns:
        Number of the word that a token begins, `NO_WORD` elsewhere. Shape [tokens].
    """
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    starts = np.concatenate([[0], ends[:-1] + 1])
    # A token may begin with the blank before its word, so its last character decides.
    last = offsets[:, 1] - 1
    word = np.minimum(np.searchsorted(ends, last, side="right"), len(words) - 1)
    inside = (offsets[:, 1] > offsets[:, 0]) & (last >= starts[word]) & (last < ends[word])
    word = np.where(inside, word, NO_WORD)
    first = np.unique(word, return_index=True)[1]
    begins = np.full(len(word), NO_WORD)
    begins[first] = word[first]
    return begins


def entities(tags: Sequence[str]) -> set[Entity]:
    """The entities of a sentence. I without B of its type before it belongs to none."""
    found: set[Entity] = set()
    start, name = 0, ""
    for at, tag in enumerate([*tags, OUTSIDE]):
        if name and tag != f"I-{name}":
            found.add((name, start, at))
            name = ""
        if tag.startswith("B-"):
            start, name = at, tag[2:]
    return found


def entity_report(
    truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], types: list[str]
) -> ClassificationReport:
    """Entities count as found where type, first and last word all agree; accuracy is of tags."""
    counts = np.zeros((3, len(types)), dtype=np.int64)
    number = {name: index for index, name in enumerate(types)}
    right = total = 0
    for tags, found in zip(truth, predicted, strict=True):
        wanted, got = entities(tags), entities(found)
        for row, group in enumerate((wanted & got, got, wanted)):
            for name, _, _ in group:
                counts[row, number[name]] += 1
        right += sum(a == b for a, b in zip(tags, found, strict=True))
        total += len(tags)
    hits, of_predicted, support = counts
    return report_of(
        Counts(hits=hits, predicted=of_predicted, support=support),
        types,
        accuracy=right / max(total, 1),
    )
