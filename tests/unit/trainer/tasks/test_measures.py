"""Correlations and orders, against scipy's and scikit-learn's definitions worked out by hand."""

import numpy as np
import pytest

from troika_trainer.measures import (
    by_query,
    gains,
    mean_absolute_error,
    mean_squared_error,
    ndcg,
    pearson,
    ranks,
    reciprocal_rank,
    roc_auc,
    spearman,
)
from troika_trainer.tasks.ranking import query_hash, ranking_report


def test_errors_are_means() -> None:
    truth, guess = np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 0.0])
    assert mean_squared_error(truth, guess) == pytest.approx(13 / 3)
    assert mean_absolute_error(truth, guess) == pytest.approx(5 / 3)


def test_pearson_is_numpys() -> None:
    chance = np.random.default_rng(1)
    x = chance.normal(size=200)
    y = x + chance.normal(size=200)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_a_constant_correlates_with_nothing() -> None:
    assert pearson(np.ones(4), np.arange(4.0)) == 0.0
    assert spearman(np.arange(4.0), np.zeros(4)) == 0.0


def test_equal_values_share_their_mean_rank() -> None:
    assert ranks(np.array([30.0, 10.0, 20.0, 10.0])).tolist() == [4, 1.5, 3, 1.5]


def test_spearman_sees_the_order_only() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert spearman(x, np.array([2.0, 1.0, 4.0, 3.0, 5.0])) == pytest.approx(1 - 6 * 4 / (5 * 24))


def test_auc_is_the_share_of_pairs_in_order_and_ties_are_half() -> None:
    relevant = np.array([True, False, True, False])
    assert roc_auc(relevant, np.array([0.9, 0.8, 0.7, 0.1])) == pytest.approx(3 / 4)
    assert roc_auc(relevant, np.zeros(4)) == pytest.approx(1 / 2)
    assert roc_auc(np.array([True, True]), np.zeros(2)) is None


def test_ndcg_by_hand() -> None:
    worth, scores = gains(np.array([2, 0, 1])), np.array([0.1, 0.9, 0.5])
    wanted = (1 / np.log2(3) + 3 / np.log2(4)) / (3 / np.log2(2) + 1 / np.log2(3))
    assert ndcg(worth, scores, k=10) == pytest.approx(wanted)
    assert ndcg(worth, -scores[[1, 0, 2]], k=10) is not None
    assert ndcg(worth, np.array([3.0, 1.0, 2.0]), k=10) == pytest.approx(1.0)
    assert ndcg(worth, scores, k=1) == 0.0
    assert ndcg(np.zeros(3), scores, k=10) is None


def test_amounts_gain_what_they_are_and_grades_two_to_their_power() -> None:
    assert gains(np.array([0, 1, 2, 30])).tolist() == [0, 1, 3, 2**30 - 1]
    assert gains(np.array([0, 1, 2, 31])).tolist() == [0, 1, 2, 31]


def test_clicks_have_an_ndcg() -> None:
    """Also where a query has few: all queries of a split are measured alike."""
    query = np.array([1, 1, 2, 2, 2])
    clicks = np.array([2000, 5000, 0, 3, 1], dtype=np.float32)
    report = ranking_report(query, clicks, np.array([0.9, 0.1, 0.9, 0.5, 0.1]))
    first = (2000 + 5000 / np.log2(3)) / (5000 + 2000 / np.log2(3))
    second = (3 / np.log2(3) + 1 / np.log2(4)) / (3 + 1 / np.log2(3))
    assert report.ndcg == pytest.approx((first + second) / 2)
    assert np.isfinite(report.ndcg_at_random)
    assert np.isfinite(report.ndcg_deciles).all()


def test_equal_scores_earn_what_a_random_order_does() -> None:
    worth = gains(np.array([2, 0, 1, 0]))
    chance = np.random.default_rng(3)
    random = [ndcg(worth, chance.random(4), k=10) or 0.0 for _ in range(4000)]
    assert ndcg(worth, np.zeros(4), k=10) == pytest.approx(np.mean(random), abs=0.01)


def test_the_first_relevant_candidate_counts_and_ties_count_against_it() -> None:
    assert reciprocal_rank(np.array([0, 2, 1]), np.array([0.9, 0.5, 0.6])) == pytest.approx(1 / 2)
    assert reciprocal_rank(np.array([0, 1]), np.array([0.5, 0.5])) == pytest.approx(1 / 2)
    assert reciprocal_rank(np.array([0, 0]), np.array([0.5, 0.5])) is None


def test_samples_are_grouped_by_query_wherever_they_stand() -> None:
    query = np.array([query_hash(name) for name in ("b", "a", "b", "c", "a")])
    groups = sorted(group.tolist() for group in by_query(query))
    assert groups == [[0, 2], [1, 4], [3]]


def test_the_ranking_report_leaves_out_queries_with_nothing_relevant() -> None:
    query = np.array([1, 1, 2, 2, 3, 3])
    relevance = np.array([1, 0, 0, 1, 0, 0])
    report = ranking_report(query, relevance, np.array([0.9, 0.1, 0.8, 0.2, 0.5, 0.4]))
    assert (report.num_queries, report.num_rankable, report.num_candidates) == (3, 2, 6)
    assert report.ndcg == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert report.mrr == pytest.approx(0.75)
    assert report.ndcg_at_random == pytest.approx((1 + 1 / np.log2(3)) / 2)
    assert report.auc == pytest.approx(5 / 8)
    assert len(report.as_dict()["ndcg_deciles"]) == 11
