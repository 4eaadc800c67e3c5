"""What the cluster holds, as far as we know: filled by watch events and by our own writes.

Our own writes are put in when they are answered, because the watch tells of them later: a Job that
was just made must not be missed by the next look. Versions decide which of two accounts is newer,
and an object that we saw deleted stays so, whatever late events say.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from troika_api.contract import LABEL_KIND, LABEL_NAME
from troika_api.v1alpha1.resource import GROUP

from .parsing import Raw, version_of, view_group, view_job, view_pod
from .resources import names
from .views import GroupView, JobView, PodView

MAX_TOMBSTONES = 20_000
CHILD_KINDS = ("Job", "Pod", "PodGroup")
"""Services and ConfigMaps are not watched: they are there as long as the attempt's Job is."""
OWN_KINDS = ("PretrainJob", "FinetuneJob")


class Key(NamedTuple):
    """A job: what the work queue holds."""

    namespace: str
    kind: str
    name: str

    def label(self) -> "Key":
        """The same as its children's labels say it."""
        return Key(self.namespace, self.kind, names.label_value(self.name))


View = JobView | PodView | GroupView


@dataclass
class Children:
    """Child objects of one job, by uid."""

    jobs: dict[str, JobView] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)
    groups: dict[str, GroupView] = field(default_factory=dict)

    def of(self, kind: str) -> dict[str, Any]:
        """Those of one kind."""
        kinds: dict[str, dict[str, Any]] = {
            "Job": self.jobs,
            "Pod": self.pods,
            "PodGroup": self.groups,
        }
        return kinds[kind]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.jobs or self.pods or self.groups)


class Store:
    """Jobs and their children, found by key."""

    def __init__(self) -> None:
        self.jobs: dict[Key, dict[str, Any]] = {}
        self.children: dict[Key, Children] = {}
        self._by_label: dict[Key, Key] = {}
        self._awaited: dict[Key, set[Key]] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._uids: set[str] = set()

    def knows(self, uid: str) -> bool:
        """Whether the object was ever seen, and be it that it is gone."""
        return uid in self._uids or uid in self._gone

    def put(self, raw: dict[str, Any]) -> set[Key]:
        """Take in an object; the keys that have to be looked at, none if it is old news."""
        kind, uid = raw["kind"], raw["metadata"]["uid"]
        if uid in self._gone or kind not in (*OWN_KINDS, *CHILD_KINDS):
            return set()
        self._uids.add(uid)
        return self._put_job(raw) if kind in OWN_KINDS else self._put_child(raw)

    def remove(self, raw: Raw) -> set[Key]:
        """Forget an object that is gone."""
        meta = raw["metadata"]
        self._bury(meta["uid"])
        key = key_of(raw)
        if key is None:
            return set()
        if raw["kind"] in OWN_KINDS:
            known = self.jobs.get(key)
            if known is None or known["metadata"]["uid"] != meta["uid"]:
                return set()
            del self.jobs[key]
            self._by_label.pop(key.label(), None)
            return {key, *self._awaited.get(key, ())}
        return self._drop_child(key, raw["kind"], meta["uid"])

    def waits_for(self, key: Key, source: Key | None) -> None:
        """Remember that changes of `source` concern `key`."""
        for known, waiting in list(self._awaited.items()):
            if key in waiting and known != source:
                waiting.discard(key)
                if not waiting:
                    del self._awaited[known]
        if source is not None:
            self._awaited.setdefault(source, set()).add(key)

    def prune(self, kind: str, alive: Iterable[str], version: int) -> set[Key]:
        """Forget objects of a kind that are not alive and not newer than the list that says so."""
        living = set(alive)
        woken: set[Key] = set()
        if kind in OWN_KINDS:
            for key, raw in list(self.jobs.items()):
                stale = raw["metadata"]["uid"] not in living and version_of(raw) <= version
                if key.kind == kind and stale:
                    woken |= self.remove(raw)
            return woken
        for label, children in list(self.children.items()):
            for uid, view in list(children.of(kind).items()):
                if uid not in living and view.version <= version:
                    self._bury(uid)
                    woken |= self._drop_child(label, kind, uid)
        return woken

    def _put_job(self, raw: dict[str, Any]) -> set[Key]:
        key = key_of(raw)
        assert key is not None
        known = self.jobs.get(key)
        same = known is not None and known["metadata"]["uid"] == raw["metadata"]["uid"]
        if same and known and version_of(raw) <= version_of(known):
            return set()
        meta = {k: v for k, v in raw["metadata"].items() if k != "managedFields"}
        self.jobs[key] = {**raw, "metadata": meta}
        self._by_label[key.label()] = key
        moved = known is None or _phase(known) != _phase(raw)
        return {key, *self._awaited.get(key, ())} if moved else {key}

    def _put_child(self, raw: Raw) -> set[Key]:
        label = key_of(raw)
        if label is None:
            return set()
        siblings = self.children.setdefault(label, Children()).of(raw["kind"])
        known = siblings.get(raw["metadata"]["uid"])
        if known is not None and version_of(raw) <= known.version:
            return set()
        view = _VIEWS[raw["kind"]](raw)
        siblings[view.uid] = view
        return self._owner(label)

    def _drop_child(self, label: Key, kind: str, uid: str) -> set[Key]:
        children = self.children.get(label)
        if children is None or children.of(kind).pop(uid, None) is None:
            return set()
        if not children:
            del self.children[label]
        return self._owner(label)

    def _owner(self, label: Key) -> set[Key]:
        key = self._by_label.get(label)
        return {key} if key is not None else set()

    def _bury(self, uid: str) -> None:
        self._uids.discard(uid)
        self._gone[uid] = None
        while len(self._gone) > MAX_TOMBSTONES:
            self._gone.popitem(last=False)


_VIEWS: dict[str, Any] = {"Job": view_job, "Pod": view_pod, "PodGroup": view_group}


def key_of(raw: Raw) -> Key | None:
    """Key of a job, or of the job that a child's labels name."""
    meta = raw["metadata"]
    namespace = meta.get("namespace") or "default"
    if raw["kind"] in OWN_KINDS and str(raw.get("apiVersion", "")).startswith(f"{GROUP}/"):
        return Key(namespace, raw["kind"], meta["name"])
    labels = meta.get("labels") or {}
    kind, name = labels.get(LABEL_KIND), labels.get(LABEL_NAME)
    return Key(namespace, kind, name) if kind and name else None


def _phase(raw: Raw) -> object:
    return (raw.get("status") or {}).get("phase")
