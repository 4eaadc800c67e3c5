"""Who waits gets the first answer that is true, or is told what did not come."""

import itertools

import pytest

from support.waiting import until, wait_until


def test_the_first_true_answer_is_given_back() -> None:
    answers = iter([None, "", "here", "later"])
    assert wait_until(lambda: next(answers), "an answer", every=0.001) == "here"


def test_what_did_not_come_is_said_with_what_was_seen_last() -> None:
    looks = itertools.count()
    message = r"^waited 0\.05 s in vain for an end; last seen: \[\]$"
    with pytest.raises(AssertionError, match=message):
        wait_until(lambda: [][: next(looks)], "an end", seconds=0.05, every=0.001)
    assert next(looks) > 1


def test_how_things_stand_can_be_told_in_place_of_the_answer() -> None:
    message = r"^waited 0 s in vain for step 5; last seen: step 4 of 9$"
    with pytest.raises(AssertionError, match=message):
        wait_until(lambda: False, "step 5", seconds=0, seen=lambda: "step 4 of 9")


async def test_the_same_holds_in_an_event_loop() -> None:
    answers = iter([None, "here", *[""] * 10**4])

    async def look() -> str | None:
        return next(answers)

    async def seen() -> dict[str, int]:
        return {"step": 4}

    assert await until(look, "an answer") == "here"
    with pytest.raises(AssertionError, match=r"waited 0\.1 s in vain for it; last seen: ''$"):
        await until(look, "it", seconds=0.1)
    with pytest.raises(AssertionError, match=r"in vain for step 5; last seen: \{'step': 4\}$"):
        await until(look, "step 5", seconds=0.1, seen=seen)
