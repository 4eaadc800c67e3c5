"""Spans are hidden as the papers say, and nothing is lost between source and target."""

import numpy as np
import pytest

from troika_trainer.noise import Holes, infilled, span_mask, with_sentinels

TOKENS = np.arange(100, 110)
SENTINELS = np.array([50, 51, 52])


@pytest.mark.parametrize(("length", "hidden", "spans"), [(100, 15, 5), (512, 77, 26), (8, 1, 1)])
def test_t5_hides_a_fixed_number_of_tokens_in_a_fixed_number_of_spans(
    length: int, hidden: int, spans: int
) -> None:
    chance = np.random.default_rng(5)
    masks = [span_mask(length, Holes(0.15, 3.0), chance) for _ in range(300)]
    for mask in masks:
        assert mask.sum() == hidden
        assert (np.diff(mask.astype(int), prepend=0) == 1).sum() in (spans, spans + 1)
    assert np.mean(masks, axis=0) == pytest.approx(hidden / length, abs=0.1), "no place is special"


def test_each_span_becomes_a_sentinel_and_is_the_target_after_it() -> None:
    hidden = np.zeros(10, dtype=bool)
    hidden[[1, 2, 5, 9]] = True
    source, target = with_sentinels(TOKENS, hidden, SENTINELS, end=1)
    assert source.tolist() == [100, 50, 103, 104, 51, 106, 107, 108, 52, 1]
    assert target.tolist() == [50, 101, 102, 51, 105, 52, 109, 1]


def test_spans_beyond_the_sentinels_stay() -> None:
    hidden = np.zeros(10, dtype=bool)
    hidden[[1, 3, 5, 7]] = True
    source, target = with_sentinels(TOKENS, hidden, SENTINELS, end=1)
    assert source.tolist() == [100, 50, 102, 51, 104, 52, 106, 107, 108, 109, 1]
    assert target.tolist() == [50, 101, 51, 103, 52, 105, 1]


def test_source_and_target_together_are_the_text() -> None:
    chance = np.random.default_rng(7)
    tokens = np.arange(1000, 1200)
    hidden = span_mask(200, Holes(0.15, 3.0), chance)
    source, target = with_sentinels(tokens, hidden, np.arange(100), end=1)
    spans: dict[int, list[int]] = {}
    for token in target[:-1].tolist():
        if token < 100:
            spans[token] = []
        else:
            spans[max(spans)].append(token)
    text = [part for token in source[:-1].tolist() for part in spans.get(token, [token])]
    assert text == tokens.tolist()


def test_bart_hides_the_share_asked_for_and_keeps_special_tokens() -> None:
    tokens = np.concatenate([[0], np.arange(1000, 1398), [2]])
    ordinary = tokens >= 1000
    hidden, masks = [], []
    for seed in range(50):
        chance = np.random.default_rng(seed)
        source = infilled(tokens, ordinary, Holes(0.3, 3.0), mask=4, chance=chance)
        kept = source[source != 4]
        assert {0, 2} <= set(kept.tolist())
        assert (np.diff(kept[kept >= 1000]) > 0).all(), "the order stays"
        hidden.append(len(tokens) - len(kept))
        masks.append((source == 4).sum())
    assert np.mean(hidden) == pytest.approx(120, abs=1)
    assert np.mean(masks) == pytest.approx(40, abs=3)
