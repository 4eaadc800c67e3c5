"""What is known of the cluster, in whatever order the news come."""

from typing import Any

from support.views import manifest
from troika_operator.store import Key, Store, key_of

KEY = Key("team", "PretrainJob", "bert-prose")
LABELS = {"troika.dev/job-kind": "PretrainJob", "troika.dev/job-name": "bert-prose"}


def job(version: int = 1, uid: str = "u", **status: Any) -> dict[str, Any]:
    body = manifest("pretrain-bert")
    body["metadata"] |= {"resourceVersion": str(version), "uid": uid}
    return {**body, "status": status}


def child(kind: str = "Job", version: int = 1, uid: str = "c", **meta: Any) -> dict[str, Any]:
    known = {
        "name": uid,
        "namespace": "team",
        "uid": uid,
        "resourceVersion": str(version),
        "creationTimestamp": "2026-11-24T12:00:00Z",
        "labels": {**LABELS, "troika.dev/attempt": "0"},
    }
    return {"apiVersion": "v1", "kind": kind, "metadata": {**known, **meta}, "spec": {}}


def test_a_job_and_its_children_wake_the_job() -> None:
    store = Store()
    assert store.put(job()) == {KEY}
    for kind in ("Job", "Pod", "PodGroup"):
        assert store.put(child(kind, uid=kind)) == {KEY}
    children = store.children[KEY]
    assert (len(children.jobs), len(children.pods), len(children.groups)) == (1, 1, 1)


def test_children_that_come_first_are_kept_for_their_job() -> None:
    store = Store()
    assert store.put(child()) == set()
    assert store.put(job()) == {KEY}
    assert list(store.children[KEY].jobs) == ["c"]


def test_old_news_is_no_news() -> None:
    store = Store()
    store.put(job(5, phase="Running"))
    assert store.put(job(5, phase="Running")) == set()
    assert store.put(job(4, phase="Starting")) == set()
    assert store.jobs[KEY]["status"]["phase"] == "Running"
    store.put(child(version=5))
    assert store.put(child(version=4)) == set()


def test_what_is_gone_stays_gone() -> None:
    store = Store()
    store.put(job())
    store.put(child())
    assert store.remove(child()) == {KEY}
    assert store.put(child(version=9)) == set()
    assert KEY not in store.children


def test_a_job_that_was_made_anew_replaces_the_old_one() -> None:
    store = Store()
    store.put(job(5, uid="old"))
    assert store.put(job(9, uid="new")) == {KEY}
    assert store.remove(job(7, uid="old")) == set()
    assert store.jobs[KEY]["metadata"]["uid"] == "new"


def test_managed_fields_are_not_kept() -> None:
    store = Store()
    body = job()
    body["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    store.put(body)
    assert "managedFields" not in store.jobs[KEY]["metadata"]


def test_one_who_waits_is_woken_by_phases_and_not_by_numbers() -> None:
    store = Store()
    waiting = Key("team", "FinetuneJob", "sentiment")
    store.waits_for(waiting, KEY)
    assert store.put(job(1)) == {KEY, waiting}
    assert store.put(job(2, phase="Running")) == {KEY, waiting}
    assert store.put(job(3, phase="Running", progress={"step": 7})) == {KEY}
    assert store.put(job(4, phase="Succeeded")) == {KEY, waiting}
    assert store.remove(job(4)) == {KEY, waiting}
    store.waits_for(waiting, None)
    assert store.put(job(5, uid="new")) == {KEY}


def test_deletions_that_nobody_told_of_are_found() -> None:
    store = Store()
    store.put(job(1))
    store.put(child("Pod", 2, "gone"))
    store.put(child("Pod", 2, "here"))
    store.put(child("Pod", 99, "newer than the list"))
    assert store.prune("Pod", ["here"], 50) == {KEY}
    assert sorted(store.children[KEY].pods) == ["here", "newer than the list"]
    assert store.prune("FinetuneJob", [], 50) == set()
    assert store.prune("PretrainJob", [], 50) == {KEY}
    assert store.jobs == {}


def test_objects_of_others_have_no_key() -> None:
    assert key_of(child(labels={"app": "x"})) is None
    foreign = {**job(), "apiVersion": "example.com/v1"}
    assert key_of(foreign) is None


def test_a_name_too_long_for_a_label_is_found_by_its_children() -> None:
    store = Store()
    long = "x" * 100
    body = job()
    body["metadata"]["name"] = long
    store.put(body)
    key = Key("team", "PretrainJob", long)
    labels = {"troika.dev/job-kind": "PretrainJob", "troika.dev/job-name": key.label().name}
    assert store.put(child(labels=labels)) == {key}


def test_what_was_ever_seen_is_known() -> None:
    store = Store()
    store.put(job(uid="a"))
    store.put(child(uid="b"))
    store.remove(child(uid="b"))
    assert [store.knows(uid) for uid in ("a", "b", "c")] == [True, True, False]
