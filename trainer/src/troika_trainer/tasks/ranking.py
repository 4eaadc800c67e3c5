"""Ranking: how well a candidate fits what is known of who asks; recommendation, search."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from typing_extensions import override

from troika_api.contract import Score
from troika_trainer.batch import Batch, Examples
from troika_trainer.errors import DataError
from troika_trainer.measures import by_query, gains, ndcg, reciprocal_rank, roc_auc
from troika_trainer.report import Mistake, shortened, worst
from troika_trainer.rows import Row
from troika_trainer.runfile import Run
from troika_trainer.shards import Array, ColumnType, Example, Store

from .base import Measured, while_measuring
from .texts import TextTask, ValuedTexts

CUT = 10
"""Candidates that somebody looks at."""


@dataclass(frozen=True)
class RankingReport:
    """How good the orders are: means over the queries that have something relevant."""

    num_queries: int
    num_rankable: int
    """Queries with at least one relevant candidate."""
    num_candidates: int
    ndcg: float
    mrr: float
    auc: float
    ndcg_at_random: float
    """What a random order earns on the same candidates."""
    ndcg_deciles: list[float]
    """NDCG of the queries from the worst (0 %) to the best (100 %), at each tenth."""
    classes: list[Score] = field(default_factory=list)
    """None: candidates are of no class."""

    def as_dict(self) -> dict[str, Any]:
        """For report.json."""
        return {name: value for name, value in asdict(self).items() if name != "classes"}

    def as_text(self) -> str:
        """For people."""
        deciles = " ".join(f"{value:.2f}" for value in self.ndcg_deciles)
        return (
            f"{self.num_candidates} candidates, {self.num_queries} queries, "
            f"{self.num_rankable} with something relevant\n"
            f"NDCG@{CUT} {self.ndcg:.3f} (a random order: {self.ndcg_at_random:.3f})\n"
            f"MRR     {self.mrr:.3f}\nAUC     {self.auc:.3f}\n"
            f"NDCG@{CUT} of the queries at each tenth, from the worst: {deciles}\n"
        )


class Ranked(ValuedTexts):
    """Pairs of history and candidate, each with its relevance and its query."""

    def __init__(self, store: Store, *, pad_id: int) -> None:
        super().__init__(store, pad_id=pad_id)
        query = store["query"]
        self.query = np.array(query.slice(0, len(query)))
        """A hash of the query of every example, shape [examples]."""


class Ranking(TextTask):
    """Fine-tunes a cross-encoder: it reads history and candidate at once and gives one score.

    The loss is pointwise: relevance over the highest one in training is taken as a probability.
    """

    auto_model = AutoModelForSequenceClassification
    pipeline_tag = "text-ranking"
    one_prediction_each = True
    held_out_by = ("query",)
    highest: float
    """Relevance that counts as certain."""

    def __init__(self, run: Run, preprocessor: Any) -> None:
        super().__init__(run, preprocessor)
        # The newest of a long history stands at its end, and says more than the oldest. Here, and
        # not where texts are encoded: no attempt but the first does that, and all export.
        self.tokenizer.truncation_side = "left"

    @property
    @override
    def columns(self) -> dict[str, ColumnType]:
        return {
            **self.token_columns,
            "label": ColumnType("float32", ragged=False),
            "query": ColumnType("int64", ragged=False),
        }

    @override
    def survey(self, rows: Iterator[Row]) -> dict[str, Any]:
        found = {self._relevance(row) for row in rows}
        if len(found) < 2:
            raise DataError(
                f"column {self.spec.data.columns.relevance!r} has one value in training: {found}",
                "ranking needs candidates that are more and less relevant; check "
                "data.columns.relevance",
            )
        return {"highest": max(found)}

    @override
    def adopt(self, facts: dict[str, Any]) -> None:
        self.highest = float(facts["highest"])

    def _relevance(self, row: Row) -> float:
        column = self.spec.data.columns.relevance
        value = row.number(column)
        if value < 0:
            raise row.error(f"column {column!r}: expected a relevance of 0 or more, got {value}")
        return value

    @override
    def encode(self, rows: Sequence[Row]) -> Iterable[Example]:
        part = self.spec.data.columns
        labels = [self._relevance(row) for row in rows]
        queries = [query_hash(row.label(part.query)) for row in rows]
        encoded = self.tokenize(
            [row.text(part.history) for row in rows],
            [row.text(part.candidate) for row in rows],
            truncation="longest_first",
        )
        for index, (label, query) in enumerate(zip(labels, queries, strict=True)):
            yield {
                **self.tokens_of(encoded, index),
                "label": np.asarray(label),
                "query": np.asarray(query),
            }

    @override
    def examples(self, store: Store) -> Ranked:
        return Ranked(store, pad_id=self.pad_id)

    @override
    def model_settings(self) -> dict[str, Any]:
        return {"num_labels": 1}

    @override
    def forward(self, model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        scores = model(**batch.inputs).logits.float().squeeze(-1)
        wanted = (batch.labels / self.highest).clamp(max=1.0)
        loss = binary_cross_entropy_with_logits(scores, wanted, reduction="sum")
        return loss, while_measuring(model, batch, scores)

    @override
    def metrics(self, measured: Measured, examples: Examples) -> dict[str, float]:
        report = self.report(measured, examples)
        return {
            "loss": measured.loss,
            "ndcgAt10": report.ndcg,
            "mrr": report.mrr,
            "auc": report.auc,
        }

    @override
    def report(self, measured: Measured, examples: Examples) -> RankingReport:
        assert isinstance(examples, Ranked)
        return ranking_report(examples.query, examples.labels, measured.predictions)

    @override
    def worst(self, measured: Measured, examples: Examples) -> list[Mistake]:
        assert isinstance(examples, Ranked)
        return worst_candidates(
            examples.labels,
            measured.predictions,
            self.highest,
            lambda index: self.shown(examples, index),
        )


def query_hash(name: str) -> int:
    """A 64-bit number for a query of any name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def ranking_report(query: Array, relevance: Array, scores: Array) -> RankingReport:
    """Compare the orders that the scores make with what is relevant. Shapes [candidates]."""
    groups = list(by_query(query))
    worth = gains(relevance)
    found, chances, firsts = [], [], []
    for group in groups:
        gain = ndcg(worth[group], scores[group], k=CUT)
        chance = ndcg(worth[group], np.zeros(len(group)), k=CUT)
        first = reciprocal_rank(relevance[group], scores[group])
        if gain is not None and chance is not None and first is not None:
            found.append(gain)
            chances.append(chance)
            firsts.append(first)
    auc = roc_auc(relevance > 0, scores)
    return RankingReport(
        num_queries=len(groups),
        num_rankable=len(found),
        num_candidates=len(scores),
        ndcg=_mean(found),
        mrr=_mean(firsts),
        auc=0.5 if auc is None else auc,
        ndcg_at_random=_mean(chances),
        ndcg_deciles=np.quantile(found or [0.0], np.linspace(0, 1, 11)).round(4).tolist(),
    )


def worst_candidates(
    relevance: Array, scores: Array, highest: float, text: Callable[[int], str]
) -> list[Mistake]:
    """The candidates that were held for more or less relevant than they are, by how much.

    Args:
        relevance: As it stands in the data, shape [candidates].
        scores: Logit of each candidate, shape [candidates].
        highest: Relevance that counts as certain: there is none above it for the model.
        text: Shows a candidate with its history, by its number.
    """
    found = highest * np.exp(-np.logaddexp(0.0, -scores.astype(np.float64)))
    error = np.abs(found - np.minimum(relevance, highest))
    return worst(
        error,
        lambda index: Mistake(
            row=index + 1,
            text=shortened(text(index)),
            expected=f"{relevance[index]:.4g}",
            predicted=f"{round(found[index], 4):.4g}",
            measure="relevance off by",
            value=float(error[index]),
        ),
    )


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0
