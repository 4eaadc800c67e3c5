"""The operator in a thread of its own: at its end kopf cancels what else runs in its loop."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from troika_api.contract import PORT_METRICS
from troika_operator.app import Operator
from troika_operator.cluster import Api
from troika_operator.settings import Settings
from troika_operator.store import Store
from troika_operator.telemetry import Telemetry


def quick(namespace: str, **settings: Any) -> Settings:
    """Settings for tests: one namespace, and no patience."""
    known = {
        "watch_namespaces": (namespace,),
        "poll_interval": 0.3,
        "poll_timeout": 1.0,
        "status_interval": 0.2,
        "trainer_image": "trainer:test",
    }
    return Settings(**{**known, **settings})


@dataclass
class RunningOperator:
    """A handle on the thread."""

    settings: Settings
    wrap: Callable[[Api], Api] = lambda api: api
    """Wraps the real Api, to put faults before it."""
    trainer_port: int = PORT_METRICS
    store: Store = field(default_factory=Store)
    ready: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    telemetry: Telemetry = field(init=False)
    _loop: asyncio.AbstractEventLoop | None = None
    _main: "asyncio.Task[None] | None" = None
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self.telemetry = Telemetry(self.store)

    @property
    def writes(self) -> dict[tuple[str, str], int]:
        """Writes so far by resource and verb."""
        found = {}
        for family in self.telemetry.registry.collect():
            for sample in family.samples:
                if sample.name == "troika_api_writes_total":
                    labels = sample.labels
                    found[labels["resource"], labels["verb"]] = int(sample.value)
        return found

    def begin(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Gone at once, as after kill -9: nothing that is under way is finished."""
        loop, main, thread = self._loop, self._main, self._thread
        if loop is not None and main is not None and not loop.is_closed():
            loop.call_soon_threadsafe(main.cancel)
        if thread is not None:
            thread.join(timeout=20)
            assert not thread.is_alive(), "the operator does not stop"

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.error = error

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        operator = Operator(
            self.settings, self.telemetry, self.store, trainer_port=self.trainer_port
        )

        async def tell() -> None:
            await operator.full.wait()
            self.ready.set()

        telling = asyncio.create_task(tell())
        await operator.run(asyncio.Event(), wrap=self.wrap)
        await telling


@contextmanager
def running(
    settings: Settings,
    wrap: Callable[[Api], Api] = lambda api: api,
    *,
    trainer_port: int = PORT_METRICS,
) -> Iterator[RunningOperator]:
    """An operator that works."""
    operator = RunningOperator(settings, wrap, trainer_port)
    operator.begin()
    try:
        assert operator.ready.wait(timeout=30), f"not ready: {operator.error!r}"
        yield operator
    finally:
        operator.end()
