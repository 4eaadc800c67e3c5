"""How the store is filled, and how what nobody told of is found."""

from typing import Any

import pytest

from support.views import manifest
from troika_operator.errors import NotFoundError, RefusedError, StartupError, UnavailableError
from troika_operator.handlers import build_registry, build_settings, fill
from troika_operator.resync import Resync
from troika_operator.store import Key, Store

KEY = Key("team", "PretrainJob", "bert-prose")


def test_events_fill_the_store_and_wake_the_job() -> None:
    store, woken = Store(), list[Key]()
    listen = fill(store, woken.append)
    listen(None, manifest("pretrain-bert"))
    listen("MODIFIED", manifest("pretrain-bert"))
    assert woken == [KEY], "the same version is no news"
    listen("DELETED", manifest("pretrain-bert"))
    assert woken == [KEY, KEY]
    assert store.jobs == {}


def test_kopf_only_watches() -> None:
    registry = build_registry(lambda *_: None, gangs=True)
    assert len(registry._watching.get_all_handlers()) == 5
    assert not registry._indexing.get_all_handlers()
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()


def test_kopf_is_told_to_keep_its_hands_off() -> None:
    settings = build_settings()
    assert settings.posting.enabled is False
    assert settings.scanning.disabled is True
    assert settings.peering.standalone is True
    assert settings.queueing.worker_limit is None


class Lists:
    """What the API server lists, by kind and namespace."""

    def __init__(self, **uids: set[str]) -> None:
        self.found = uids
        self.error: Exception | None = None
        self.initializing = 0

    async def uids(
        self, kind: str, namespace: str | None, *, selector: str | None
    ) -> tuple[set[str], int]:
        if self.error is not None:
            raise self.error
        if self.initializing:
            self.initializing -= 1
            raise UnavailableError("429: storage is (re)initializing")
        assert (selector is None) == (kind == "PretrainJob")
        key = kind if namespace is None else f"{kind}_{namespace}"
        return set(self.found.get(key, set())), 1000


def resync(lists: Lists, store: Store, woken: list[Key]) -> Resync:
    return Resync(lists, store, woken.append, kinds=("PretrainJob", "Job"))


async def test_the_store_is_full_when_it_has_seen_what_exists() -> None:
    store = Store()
    body = manifest("pretrain-bert")
    store.put(body)
    await resync(Lists(PretrainJob={body["metadata"]["uid"]}), store, []).fill(())


async def test_an_api_server_that_cannot_list_yet_is_asked_again() -> None:
    """As one is for a moment after the CRDs were installed."""
    lists = Lists()
    lists.initializing = 1
    await resync(lists, Store(), []).fill(())
    assert lists.initializing == 0


async def test_several_namespaces_are_looked_at() -> None:
    store, woken = Store(), list[Key]()
    body = manifest("pretrain-bert")
    store.put(body)
    lists = Lists(PretrainJob_a={body["metadata"]["uid"]}, PretrainJob_b=set())
    await resync(lists, store, woken).compare(("a", "b"))
    assert KEY in store.jobs


async def test_what_is_gone_without_a_word_is_forgotten() -> None:
    store, woken = Store(), list[Key]()
    store.put(manifest("pretrain-bert"))
    await resync(Lists(), store, woken).compare(())
    assert store.jobs == {}
    assert woken == [KEY]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NotFoundError("404"), "does not serve PretrainJob: install the CRDs"),
        (RefusedError("forbidden"), "no right to list PretrainJob: forbidden"),
    ],
)
async def test_an_operator_that_cannot_work_says_why(error: Exception, text: str) -> None:
    lists: Any = Lists()
    lists.error = error
    with pytest.raises(StartupError, match=text):
        await resync(lists, Store(), []).fill(())
