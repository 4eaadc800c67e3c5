"""Entities, strictly compared, and words aligned to the tokens that speak for them."""

from typing import Any

import numpy as np
import pytest

from support.tiny_tasks import tiny_tokenizer
from troika_trainer.tasks.token_classification import (
    NO_WORD,
    entities,
    entity_report,
    first_tokens,
)

NO, BP, IP, BL, IL = "O", "B-per", "I-per", "B-loc", "I-loc"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ([NO, BP, IP, NO, BL], {("per", 1, 3), ("loc", 4, 5)}),
        ([BP, BP], {("per", 0, 1), ("per", 1, 2)}),
        ([BP, IL], {("per", 0, 1)}),
        ([IP, IP, NO], set()),
        ([BP, NO, IP], {("per", 0, 1)}),
        ([BP, IP, IP], {("per", 0, 3)}),
        ([], set()),
    ],
)
def test_an_entity_begins_with_b_and_goes_on_with_i_of_its_type(
    tags: list[str], expected: set[Any]
) -> None:
    assert entities(tags) == expected


def test_only_entities_of_the_same_type_and_extent_count() -> None:
    truth = [[BP, IP, NO, BL], [BL, IL, NO], [NO, NO, BP]]
    found = [[BP, IP, NO, BP], [BL, NO, NO], [NO, NO, BP]]
    report = entity_report(truth, found, ["loc", "per"])
    loc, per = report.classes
    assert (loc.precision, loc.recall, loc.f1, loc.support) == (0, 0, 0, 2)
    assert per.precision == pytest.approx(2 / 3)
    assert (per.recall, per.support) == (1.0, 2)
    assert report.micro.precision == pytest.approx(2 / 4)
    assert report.micro.recall == pytest.approx(2 / 4)
    assert report.macro.f1 == pytest.approx(per.f1 / 2)
    assert report.accuracy == pytest.approx(8 / 10)


def test_the_report_has_a_line_for_each_type_and_average() -> None:
    lines = entity_report([[BP, NO]], [[BP, NO]], ["loc", "per"]).as_text().splitlines()
    assert [line.split()[0] for line in lines if line] == [
        "precision",
        "loc",
        "per",
        "accuracy",
        "micro",
        "macro",
        "weighted",
    ]


@pytest.mark.parametrize("algorithm", ["WordPiece", "ByteLevelBPE"])
def test_the_first_token_of_each_word_speaks_for_it(algorithm: str) -> None:
    words = ["Zürich", "is", "n't", "a", "supercalifragilistic", "city", "🙂", "."]
    tokenizer = tiny_tokenizer(["a city is not a super market in Zurich ."], algorithm=algorithm)
    text = " ".join(words)
    encoded = tokenizer(text, return_offsets_mapping=True)
    offsets = np.asarray(encoded["offset_mapping"])
    found = first_tokens(words, offsets)
    begun = found[found != NO_WORD].tolist()
    assert begun == sorted(set(begun))
    starts = [text.index(word) for word in words]
    for token in np.flatnonzero(found != NO_WORD):
        start, end = offsets[token]
        word = starts[found[token]]
        assert start <= word < end, "the token covers the first character of its word"
    assert set(begun) >= {1, 3, 4, 5, 7}


def test_words_that_were_cut_off_have_no_token() -> None:
    offsets = np.array([[0, 0], [0, 2], [3, 5], [0, 0]])
    assert first_tokens(["ab", "cd", "ef"], offsets).tolist() == [NO_WORD, 0, 1, NO_WORD]
