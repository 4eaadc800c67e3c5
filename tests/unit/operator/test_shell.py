"""The parts around the decisions: patches, limits, progress, metrics, the lease."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import generate_latest
from typing_extensions import override

from support.views import START, at, manifest
from troika_api import metrics
from troika_api.contract import TrainerStatus
from troika_operator.bucket import TokenBucket
from troika_operator.cluster import merge_change
from troika_operator.errors import ConflictError, LeadershipLost, NotFoundError
from troika_operator.leader import Leader
from troika_operator.plan import PollTarget, Report
from troika_operator.progress import Poller, stagger
from troika_operator.settings import Settings
from troika_operator.store import Key, Store
from troika_operator.telemetry import FAMILIES, Telemetry

KEY = Key("team", "PretrainJob", "bert-prose")


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {}, {"a": None}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 3}}, {"a": {"c": None, "d": 3}}),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": 1.0}, {}),
    ],
)
def test_a_merge_patch_says_what_changed(before: Any, after: Any, change: Any) -> None:
    assert merge_change(before, after) == change


async def test_writes_are_limited_after_a_burst() -> None:
    now = 0.0
    waits = []

    async def sleep(seconds: float) -> None:
        waits.append(round(seconds, 3))

    bucket = TokenBucket(10, 3, clock=lambda: now, sleep=sleep)
    for _ in range(5):
        await bucket.take()
    assert waits == [0.1, 0.2]
    now = 10.0
    await bucket.take()
    assert waits == [0.1, 0.2]


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TROIKA_WATCH_NAMESPACES", "a, b,")
    monkeypatch.setenv("TROIKA_RUN_AS_USER", "")
    monkeypatch.setenv("TROIKA_POLL_INTERVAL", "5")
    settings = Settings()
    assert settings.watch_namespaces == ("a", "b")
    assert settings.run_as_user is None
    assert settings.fs_group == 1000
    assert settings.poll_interval == 5.0


# Progress


class Trainer:
    """A trainer that says what it is told to."""

    said: TrainerStatus | None = None

    async def status(self, _: web.Request) -> web.Response:
        if self.said is None:
            return web.Response(status=503)
        return web.Response(text=self.said.to_json())


async def test_a_trainer_is_asked_and_only_news_wake_the_job() -> None:
    trainer = Trainer()
    app = web.Application()
    app.add_routes([web.get("/status", trainer.status)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    woken: list[Key] = []
    now = START
    timeout = aiohttp.ClientTimeout(total=1)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        poller = Poller(session, woken.append, lambda: now, interval=60, port=port)
        poller.watch(KEY, PollTarget("pod", "127.0.0.1", 2))
        await poller.poll(KEY)
        assert (woken, poller.report(KEY)) == ([], None)
        trainer.said = TrainerStatus(attempt=1, step=99)
        await poller.poll(KEY)
        assert poller.report(KEY) is None, "another attempt's word"
        trainer.said = TrainerStatus(attempt=2, step=7)
        await poller.poll(KEY)
        now = at(60)
        await poller.poll(KEY)
        report = poller.report(KEY)
        assert report is not None
        assert (report.status.step, report.moved, woken) == (7, START, [KEY])
        trainer.said = TrainerStatus(attempt=2, step=7, loss=1.0)
        await poller.poll(KEY)
        report = poller.report(KEY)
        assert report is not None
        assert (report.moved, len(woken)) == (START, 2), "a new number is no progress"
        trainer.said = TrainerStatus(attempt=2, step=8)
        await poller.poll(KEY)
        report = poller.report(KEY)
        assert report is not None
        assert report.moved == at(60)
        trainer.said = None
        for _ in range(4):
            await poller.poll(KEY)
        report = poller.report(KEY)
        assert report is not None
        assert (report.silent, report.status.step, len(woken)) == (True, 8, 4)
        poller.watch(KEY, PollTarget("other pod", "127.0.0.1", 3))
        assert poller.report(KEY) is None
        poller.watch(KEY, None)
        await poller.poll(KEY)
        assert len(woken) == 4
    await runner.cleanup()


async def fetched(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Report | None:
    """What a poller makes of the answer."""
    app = web.Application()
    app.add_routes([web.get("/status", handler), web.get("/other", _other)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        poller = Poller(session, lambda _: None, lambda: START, interval=60, port=port)
        poller.watch(KEY, PollTarget("pod", "127.0.0.1", 2))
        await poller.poll(KEY)
    await runner.cleanup()
    return poller.report(KEY)


async def _other(_: web.Request) -> web.Response:
    return web.Response(text=TrainerStatus(attempt=2, step=7).to_json())


async def test_a_trainer_cannot_send_the_operator_elsewhere() -> None:
    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPFound("/other")

    assert await fetched(elsewhere) is None


async def test_an_answer_in_several_pieces_is_read_to_its_end() -> None:
    async def pieces(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for letter in TrainerStatus(attempt=2, step=7).to_json():
            await answer.write(letter.encode())
            await asyncio.sleep(0)  # the reader's turn
        return answer

    report = await fetched(pieces)
    assert report is not None
    assert report.status.step == 7


async def test_an_answer_without_end_is_none() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b" " * 4096)

    assert await fetched(endless) is None


def test_polls_are_spread_out() -> None:
    places = sorted(stagger(f"pod-{i}") for i in range(100))
    assert max(b - a for a, b in pairwise(places)) < 0.1


# Metrics


def text(store: Store) -> str:
    return generate_latest(Telemetry(store).registry).decode()


def test_every_metric_is_exported() -> None:
    store = Store()
    stamp = "2026-11-24T12:00:00Z"
    status = {
        "phase": "Running",
        "started": stamp,
        "finished": stamp,
        "progress": {"ratio": 0.5},
        "failures": {"Crash": 2},
        "conditions": [{"type": "Running", "status": "True"}],
    }
    store.put({**manifest("pretrain-bert"), "status": status})
    telemetry = Telemetry(store)
    telemetry.looked("PretrainJob", 0.01, "RefusedError")
    telemetry.wrote("jobs", "create")
    shown = generate_latest(telemetry.registry).decode()
    for metric in metrics.OPERATOR_METRICS:
        assert f"\n{metric.name}" in shown, metric.name
    job = 'kind="PretrainJob",name="bert-prose",namespace="team"'
    assert f'troika_job_phase{{{job},phase="Running"}} 1.0' in shown
    assert f'troika_job_failures{{class="Crash",{job}}} 2.0' in shown
    assert f'troika_job_status_condition{{condition="Running",{job},status="true"}} 1.0' in shown
    assert f'troika_job_status_condition{{condition="Failed",{job},status="unknown"}} 1.0' in shown


def test_series_of_a_deleted_job_are_gone() -> None:
    store = Store()
    store.put(manifest("pretrain-bert"))
    assert "bert-prose" in text(store)
    store.remove(manifest("pretrain-bert"))
    assert "bert-prose" not in text(store)
    assert len(FAMILIES) == sum(m.name.startswith("troika_job") for m in metrics.OPERATOR_METRICS)


# Leader election


class Leases:
    """One Lease, with versions."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        if self.lease is None:
            raise NotFoundError(f"{kind} {namespace}/{name}")
        return {**self.lease, "spec": dict(self.lease["spec"])}

    async def put_lease(self, lease: dict[str, Any], *, new: bool) -> dict[str, Any]:
        known = self.lease["metadata"]["resourceVersion"] if self.lease else "0"
        if not new and lease["metadata"]["resourceVersion"] != known:
            raise ConflictError("stale")
        if new and self.lease is not None:
            raise ConflictError("exists")
        meta = {**lease["metadata"], "resourceVersion": str(int(known) + 1)}
        self.lease = {**lease, "metadata": meta}
        return self.lease


def candidates(*names: str) -> tuple[list[Leader], list[float]]:
    leases, now = Leases(), [0.0]
    made = [Leader(leases, "ns", "lease", name, 15.0, clock=lambda: now[0]) for name in names]
    return made, now


async def test_one_leads_and_the_other_takes_over_when_it_falls_silent() -> None:
    (first, second), now = candidates("a", "b")
    assert await first.try_once()
    assert not await second.try_once()
    now[0] = 10.0
    assert await first.try_once()
    assert not await second.try_once()
    now[0] = 20.0
    assert not await second.try_once(), "seen to change ten seconds ago"
    now[0] = 25.1
    assert await second.try_once()
    assert not await first.try_once()


async def test_a_leader_that_leaves_lets_the_next_one_in_at_once() -> None:
    (first, second), _ = candidates("a", "b")
    assert await first.try_once()
    await first.release()
    assert await second.try_once()


async def test_of_two_that_come_at_once_one_leads() -> None:
    made, _ = candidates("a", "b", "c")
    assert sum(await asyncio.gather(*(leader.try_once() for leader in made))) == 1


class DeadConnection(Leases):
    """Nothing comes back, not even an error."""

    @override
    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError(kind, namespace, name)


async def test_a_leader_whose_calls_hang_stops_before_the_next_one_begins() -> None:
    leader = Leader(DeadConnection(), "ns", "lease", "a", 2.0)
    async with asyncio.timeout(2.0):
        with pytest.raises(LeadershipLost):
            await leader.hold()
