"""Two answers to one prompt, in the ways in which sets of preferences hold them."""

from typing import Any

import pytest

from troika_api.v1alpha1.data import Columns
from troika_trainer.errors import DataError
from troika_trainer.rows import Row
from troika_trainer.tasks.conversation import pair_in


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


ASKED = said("user", "What is ice?")
GOOD, BAD = said("assistant", "Frozen water."), said("assistant", "Frozen fire.")
WHOLE = [[ASKED, GOOD], [ASKED, BAD]]
SYSTEM = said("system", "Be brief.")
EARLIER = [ASKED, GOOD, said("user", "And steam?")]


def pair(**values: Any) -> list[list[dict[str, str]]]:
    return pair_in(Row(values, "a.jsonl", 7), Columns())


@pytest.mark.parametrize("prompt", ["What is ice?", [ASKED]])
@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("Frozen water.", "Frozen fire."),
        ([GOOD], [BAD]),
        ([ASKED, GOOD], [ASKED, BAD]),
        ("Frozen water.", [BAD]),
    ],
)
def test_the_prompt_stands_once_before_both_answers(
    prompt: Any, chosen: Any, rejected: Any
) -> None:
    assert pair(prompt=prompt, chosen=chosen, rejected=rejected) == WHOLE


def test_a_text_that_begins_with_its_prompt_loses_it() -> None:
    found = pair(
        prompt="What is ice?",
        chosen="What is ice?\nFrozen water.",
        rejected="What is ice?\nFrozen fire.",
    )
    assert found == WHOLE


def test_a_text_may_begin_as_its_prompt_where_the_other_does_not() -> None:
    found = pair(prompt="Hi", chosen="Hi there!", rejected="What?")
    assert found[0] == [said("user", "Hi"), said("assistant", "Hi there!")]
    assert found[1] == [said("user", "Hi"), said("assistant", "What?")]


def test_a_system_message_may_stand_before_a_repeated_prompt() -> None:
    found = pair(prompt="What is ice?", chosen=[SYSTEM, ASKED, GOOD], rejected=[SYSTEM, ASKED, BAD])
    assert found == [[SYSTEM, ASKED, GOOD], [SYSTEM, ASKED, BAD]]


def test_a_prompt_in_one_answer_alone_is_refused() -> None:
    with pytest.raises(DataError, match=r"a.jsonl, line 7.*both or none to repeat the messages"):
        pair(prompt="What is ice?", chosen=[ASKED, GOOD], rejected=[BAD])


@pytest.mark.parametrize("absent", [{}, {"prompt": None}])
def test_without_a_prompt_it_is_what_both_begin_with(absent: dict[str, None]) -> None:
    chosen, rejected = [*EARLIER, GOOD], [*EARLIER, BAD]
    assert pair(**absent, chosen=chosen, rejected=rejected) == [chosen, rejected]


@pytest.mark.parametrize(
    ("chosen", "rejected", "number"),
    [
        ([ASKED, GOOD], [said("user", "What is fire?"), BAD], 1),
        ([*EARLIER, BAD], [ASKED, GOOD, said("user", "Why?"), BAD], 3),
        ([GOOD], [BAD], 1),
    ],
)
def test_answers_to_different_prompts_are_refused(chosen: Any, rejected: Any, number: int) -> None:
    with pytest.raises(DataError, match=f"line 7, column 'chosen', message {number}: without a"):
        pair(chosen=chosen, rejected=rejected)


def test_texts_without_a_prompt_are_refused() -> None:
    with pytest.raises(DataError, match="line 7: no column 'prompt'"):
        pair(chosen="Frozen water.", rejected="Frozen fire.")
