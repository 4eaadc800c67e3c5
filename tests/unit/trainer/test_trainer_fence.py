"""The greatest term owns a directory, whoever registers first, looks first or writes last."""

from pathlib import Path

import pytest
from typing_extensions import override

from troika_api.term import Term
from troika_trainer.errors import CommunicationError, ConfigError
from troika_trainer.fence import Fence
from troika_trainer.place import Place

MORNING, NOON = "2026-11-24T08:00:00Z", "2026-11-24T12:00:00Z"


def job(created: str = MORNING, uid: str = "1a2b3c4d-0000", attempt: int = 0) -> Term:
    return Term.of(created, uid, attempt)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "terms").iterdir())


def test_a_job_made_anew_takes_over_though_its_attempts_begin_at_0(tmp_path: Path) -> None:
    old, new = Fence(tmp_path, job(attempt=7)), Fence(tmp_path, job(NOON, "00000000"))
    old.register()
    new.register()
    new.check()
    with pytest.raises(ConfigError, match="the job created at 2026-11-24 12:00:00 UTC") as caught:
        old.check()
    assert "(uid 00000000) has taken over" in str(caught.value)
    assert caught.value.remedy == "give each job a checkpoint.uri of its own"


def test_a_run_by_hand_gives_way_to_a_job(tmp_path: Path) -> None:
    Fence(tmp_path, Place(attempt=9).term).register()
    Fence(tmp_path, job()).register()
    with pytest.raises(ConfigError, match="this is the run that was started by hand") as caught:
        Fence(tmp_path, Place(attempt=9).term).register()
    assert str(tmp_path / "terms") in str(caught.value.remedy)


@pytest.mark.parametrize("first", ["old", "new"])
def test_two_that_register_at_the_same_time(tmp_path: Path, first: str) -> None:
    old, new = Fence(tmp_path, job(attempt=3)), Fence(tmp_path, job(attempt=4))
    old.check()
    new.check()
    for fence in (old, new) if first == "old" else (new, old):
        fence.announce()
    new.check()
    with pytest.raises(CommunicationError, match=r"attempt 4 has taken over .* this is attempt 3"):
        old.check()


def test_registering_late_lowers_nothing(tmp_path: Path) -> None:
    old, new = Fence(tmp_path, job(attempt=3)), Fence(tmp_path, job(attempt=4))
    old.check()
    new.register()
    old.announce()
    with pytest.raises(CommunicationError):
        old.check()
    new.check()
    with pytest.raises(CommunicationError):
        Fence(tmp_path, job(attempt=3)).register()
    assert names(tmp_path)[-1] == str(job(attempt=4))


class Slow(Fence):
    """Another attempt registers between its look and its own term."""

    def __init__(self, directory: Path, term: Term, faster: Fence) -> None:
        super().__init__(directory, term)
        self._faster = faster

    @override
    def announce(self) -> None:
        self._faster.register()
        super().announce()


def test_who_was_too_slow_notices_at_once(tmp_path: Path) -> None:
    new = Fence(tmp_path, job(attempt=4))
    with pytest.raises(CommunicationError, match="attempt 4 has taken over"):
        Slow(tmp_path, job(attempt=3), new).register()
    new.check()
    Slow(tmp_path, job(attempt=6), Fence(tmp_path, job(attempt=5))).register()


def test_the_same_attempt_may_start_again_in_place(tmp_path: Path) -> None:
    Fence(tmp_path, job()).register()
    Fence(tmp_path, job()).register()
    assert names(tmp_path) == [str(job())]


def test_terms_that_are_over_are_tidied_up(tmp_path: Path) -> None:
    for attempt in range(3):
        Fence(tmp_path, job(attempt=attempt)).register()
    assert names(tmp_path) == [str(job(attempt=2))]


def test_what_is_no_term_does_not_count(tmp_path: Path) -> None:
    Fence(tmp_path, job()).register()
    (tmp_path / "terms" / "zzz.nfs0001").touch()
    Fence(tmp_path, job()).check()


def test_text_and_terms_have_one_order() -> None:
    terms = [
        Place(attempt=0).term,
        Place(attempt=11).term,
        job(attempt=2),
        job(attempt=10),
        job(uid="2b", attempt=0),
        job("2026-11-24T13:00:00+01:00", attempt=1),
    ]
    assert terms == sorted(terms)
    texts = [str(term) for term in terms]
    assert texts == sorted(texts)
    assert [Term.parse(text) for text in texts] == terms
    assert texts[-1] == "20261124T120000Z-1a2b3c4d-00001"
    with pytest.raises(ValueError, match="'5' is no term"):
        Term.parse("5")


def test_the_term_comes_with_the_environment() -> None:
    term = job(attempt=2)
    assert Place.of({"TROIKA_ATTEMPT": "2", "TROIKA_TERM": str(term)}).term == term
    assert Place.of({"TROIKA_ATTEMPT": "2"}).term == Term.by_hand(2)
