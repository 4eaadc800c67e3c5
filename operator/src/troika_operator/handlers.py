"""kopf's part: it watches, and says which job to look at again. No decisions here.

Only event handlers. Index handlers would tell when everything is listed, but kopf wakes every
object's task for each object that it has indexed: with 1,000 jobs and 3,000 pods that took more
than a minute of CPU. Event handlers store nothing on objects: no finalizer, no annotation.
"""

from collections.abc import Callable
from typing import Any

import kopf
from typing_extensions import override

from troika_api.contract import LABEL_NAME
from troika_api.v1alpha1.resource import GROUP, VERSION

from .store import OWN_KINDS, Key, Store

CHILD_SELECTOR = LABEL_NAME
"""Children are watched by label, on the server's side: the cluster's other pods never get here."""
OWN = ((GROUP, VERSION, "pretrainjobs"), (GROUP, VERSION, "finetunejobs"))
CHILDREN = (("batch", "v1", "jobs"), ("", "v1", "pods"))
GANGS = (("scheduling.k8s.io", "v1beta1", "podgroups"),)
Listener = Callable[[str | None, dict[str, Any]], None]
"""Is told of an object, and of what happened to it: ADDED, MODIFIED, DELETED, None for listed."""


def fill(store: Store, wake: Callable[[Key], None]) -> Listener:
    """Keep the store true, and wake the jobs that an event concerns."""

    def listen(kind: str | None, raw: dict[str, Any]) -> None:
        for key in store.remove(raw) if kind == "DELETED" else store.put(raw):
            wake(key)

    return listen


def build_registry(listener: Listener, *, gangs: bool) -> kopf.OperatorRegistry:
    """Kopf's handlers for everything that is watched."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    for resource in (*OWN, *CHILDREN, *(GANGS if gangs else ())):

        async def event(event: kopf.RawEvent, **_: Any) -> None:
            raw = dict(event["object"])
            listener(event["type"], raw)
            _lighten(raw)

        kopf.on.event(*resource, id=resource[-1], registry=registry)(event)
    return registry


def _lighten(raw: dict[str, Any]) -> None:
    """Empty what nobody reads any more.

    kopf keeps each object for a while, which is 33 kB for a pod and adds up when thousands are
    listed. The parts are shared with kopf's copy.
    """
    raw["metadata"].pop("managedFields", None)
    if raw["kind"] not in OWN_KINDS:
        for part in ("spec", "status"):
            if part in raw:
                raw[part].clear()


class NoDiffs(kopf.AnnotationsDiffBaseStorage):
    """kopf copies every object in full to find what changed since it handled it last.

    Event handlers need no such thing, and the copies were most of the time that an event took:
    1.4 ms became 0.4 ms.
    """

    @override
    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    @override
    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None


def build_settings() -> kopf.OperatorSettings:
    """Kopf as a watcher only."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # Kinds are looked up once: watching CRDs and namespaces would need rights to all of them.
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = NoDiffs()
    # No worker limit: with one, kopf waits for ever when more objects exist (nolar/kopf#1243).
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = 1.0
    settings.watching.chunk_size = 200
    for group, version, plural in (*CHILDREN, *GANGS):
        settings.watching.label_selectors[group, version, plural] = CHILD_SELECTOR
    return settings


async def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Without the client library's own log-in, which would load all of it."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
