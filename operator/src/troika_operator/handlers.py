"""kopf's part: it watches, and says which job to look at again. No decisions here.

Index handlers run for every object before anything else may happen, so they fill our store; event
handlers only start once all objects were indexed, so the first of them says that the store is full.
Neither kind stores anything on objects: no finalizer, no annotation, no Event.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import kopf

from troika_api.contract import LABEL_NAME
from troika_api.v1alpha1.resource import GROUP, VERSION

from .store import Key, Store

CHILD_SELECTOR = f"{LABEL_NAME}"
"""Children are watched by label, on the server's side: the cluster's other pods never get here."""
OWN = ((GROUP, VERSION, "pretrainjobs"), (GROUP, VERSION, "finetunejobs"))
CHILDREN = (("batch", "v1", "jobs"), ("", "v1", "pods"))
GANGS = (("scheduling.k8s.io", "v1beta1", "podgroups"),)


class Sink(Protocol):
    """Where events go."""

    def seen(self, raw: dict[str, Any]) -> None:
        """An object as it is now."""
        ...

    def event(self, kind: str | None, raw: dict[str, Any]) -> None:
        """What happened to an object that was seen before."""
        ...


@dataclass(frozen=True)
class Listener:
    """Fills the store, and wakes the jobs that an event concerns."""

    store: Store
    wake: Callable[[Key], None]
    full: Callable[[], None]
    """Called when the store holds everything, and again at any time after."""

    def seen(self, raw: dict[str, Any]) -> None:
        """An object as it is now."""
        for key in self.store.put(raw):
            self.wake(key)

    def event(self, kind: str | None, raw: dict[str, Any]) -> None:
        """What happened to an object that was seen before."""
        self.full()
        if kind == "DELETED":
            for key in self.store.remove(raw):
                self.wake(key)


def build_registry(listener: Sink, *, gangs: bool) -> kopf.OperatorRegistry:
    """Kopf's handlers for everything that is watched."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    for resource in (*OWN, *CHILDREN, *(GANGS if gangs else ())):

        async def index(body: kopf.Body, **_: Any) -> None:
            listener.seen(dict(body))

        async def event(event: kopf.RawEvent, **_: Any) -> None:
            listener.event(event["type"], dict(event["object"]))

        name = resource[-1]
        kopf.index(*resource, id=f"{name}-seen", registry=registry)(index)
        kopf.on.event(*resource, id=f"{name}-event", registry=registry)(event)
    return registry


def build_settings() -> kopf.OperatorSettings:
    """Kopf as a watcher only."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # Kinds are looked up once: watching CRDs and namespaces would need rights to all of them.
    settings.scanning.disabled = True
    settings.peering.standalone = True
    # No worker limit: with one, kopf waits for ever when more objects exist (nolar/kopf#1243).
    settings.queueing.worker_limit = None
    settings.queueing.idle_timeout = 1.0
    settings.watching.chunk_size = 500
    for group, version, plural in (*CHILDREN, *GANGS):
        settings.watching.label_selectors[group, version, plural] = CHILD_SELECTOR
    return settings


async def _login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """Without the client library's own log-in, which would load all of it."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
