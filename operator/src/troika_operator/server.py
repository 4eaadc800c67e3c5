"""One small HTTP server: /metrics, /healthz and /readyz."""

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


def build_app(registry: CollectorRegistry, ready: Callable[[], str | None]) -> web.Application:
    """`ready` answers with what is still missing, or with None."""

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # In a thread: thousands of jobs take longer to write down than events may wait.
        body = await asyncio.to_thread(encode, registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")  # the event loop turns; anything worse ends the process

    async def readyz(_: web.Request) -> web.Response:
        missing = ready()
        return web.Response(text=f"{missing or 'ok'}\n", status=503 if missing else 200)

    app = web.Application()
    routes = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])
    return app


async def serve(app: web.Application, port: int) -> web.AppRunner:
    """Start serving; the caller cleans the runner up."""
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner
