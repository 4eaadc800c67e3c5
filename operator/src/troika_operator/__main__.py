"""python -m troika_operator: settings, logs, the metrics server, and the operator until SIGTERM."""

import asyncio
import logging
import signal
import socket
import sys

from .app import Operator, first_of
from .bucket import TokenBucket
from .cluster import Cluster
from .connection import Connection
from .errors import OperatorError
from .leader import Leader
from .logs import configure
from .server import build_app, serve
from .settings import Settings
from .store import Store
from .telemetry import Telemetry

logger = logging.getLogger(__name__)


async def run(settings: Settings) -> None:
    """Serve metrics; work, once this replica leads."""
    store = Store()
    telemetry = Telemetry(store)
    operator = Operator(settings, telemetry, store)
    # A replica that only stands by is ready: it can take over.
    app = build_app(telemetry.registry, lambda: operator.missing() if operator.began else None)
    server = await serve(app, settings.metrics_port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        if settings.leader_election:
            await lead(settings, operator, stop)
        else:
            telemetry.leader.set(1)
            await operator.run(stop)
    finally:
        await server.cleanup()


async def lead(settings: Settings, operator: Operator, stop: asyncio.Event) -> None:
    """Work for as long as the Lease is ours."""
    connection = await Connection.open()
    cluster = Cluster(connection, TokenBucket(5.0, 10), operator.telemetry.wrote)
    leader = Leader(
        cluster,
        namespace=settings.leader_namespace,
        name=settings.leader_lease,
        identity=settings.pod_name or socket.gethostname(),
        seconds=settings.lease_seconds,
    )
    try:
        await first_of(leader.acquire(), stop.wait())
        if not stop.is_set():
            operator.telemetry.leader.set(1)
            await first_of(leader.hold(), operator.run(stop))
            await leader.release()
    finally:
        await connection.close()


def main() -> None:
    """The entry point."""
    settings = Settings()
    configure(settings.log_format, settings.log_level)
    try:
        asyncio.run(run(settings))
    except OperatorError as error:
        logger.error("%s: %s", type(error).__name__, error)  # noqa: TRY400 - the message says it
        sys.exit(1)


if __name__ == "__main__":
    main()
