"""What a job's status says of an API server that does not do what it is asked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from support.views import PLATFORM, START, manifest
from troika_operator.actions import Actions
from troika_operator.bucket import TokenBucket
from troika_operator.cluster import Cluster
from troika_operator.connection import Connection
from troika_operator.plan import Observed
from troika_operator.progress import Poller
from troika_operator.reconcile import Reconciler
from troika_operator.store import Key, Store

KEY = Key("team", "PretrainJob", "bert-prose")


class NoJobs:
    """An API server that makes everything but Jobs."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.message = message
        self.version = 100

    async def create(self, request: web.Request) -> web.Response:
        if request.match_info["plural"] == "jobs":
            return web.json_response({"message": self.message}, status=self.code)
        body = await request.json()
        body["metadata"] |= {"uid": body["metadata"]["name"], "resourceVersion": "1"}
        return web.json_response(body, status=201)

    async def patch_status(self, request: web.Request) -> web.Response:
        self.version += 1
        body = manifest("pretrain-bert")
        body["metadata"]["resourceVersion"] = str(self.version)
        return web.json_response({**body, "status": (await request.json())["status"]})

    def app(self) -> web.Application:
        app = web.Application()
        path = "/{group:.*}/namespaces/team/{plural}"
        app.add_routes(
            [
                web.post(path, self.create),
                web.patch(path + "/{name}/status", self.patch_status),
            ]
        )
        return app


@asynccontextmanager
async def connected(app: web.Application) -> AsyncIterator[Cluster]:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    connection = Connection(ApiClient(configuration=Configuration(host=host)))
    yield Cluster(connection, TokenBucket(1000.0, 1000))
    await connection.close()
    await runner.cleanup()


async def reasons(code: int, message: str, looks: int) -> list[str | None]:
    """What the status says after each look at a new job."""
    store, delays = Store(), list[float]()
    store.put(manifest("pretrain-bert"))
    base = Observed(platform=PLATFORM, watching_since=START)
    said = []
    async with connected(NoJobs(code, message).app()) as api, aiohttp.ClientSession() as session:
        actions = Actions(store, api, lambda _: None, status_interval=0.0)
        polls = Poller(session, lambda _: None, lambda: START, interval=60)
        reconciler = Reconciler(actions, polls, base, lambda _, delay: delays.append(delay))
        for _ in range(looks):
            await reconciler.look(KEY)
            said.append((store.jobs[KEY].get("status") or {}).get("reason"))
    assert delays == sorted(set(delays)), "each wait is longer than the one before"
    return said


async def test_a_refusal_is_said_at_the_next_look() -> None:
    assert await reasons(403, "exceeded quota", 3) == [None, *["exceeded quota"] * 2]


async def test_a_fault_that_lasts_is_said_and_one_of_a_moment_is_not() -> None:
    said = await reasons(500, "failed calling webhook: connection refused", 6)
    assert said[:3] == [None, None, None]
    assert (said[-1] or "").endswith("500: failed calling webhook: connection refused")


async def test_a_long_fault_fits_the_status() -> None:
    said = await reasons(503, "x" * 5000, 6)
    assert len(said[-1] or "") == 2000
