"""Two replicas: one acts, and when it dies the other goes on where it stood."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.stage import Stage
from support.waiting import until

pytestmark = pytest.mark.cluster


@dataclass
class Replica:
    """An operator as the chart starts it."""

    process: "subprocess.Popen[bytes]"
    port: int

    def page(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as page:
                return str(page.read().decode())
        except OSError:
            return None

    async def leads(self) -> bool:
        return "troika_operator_leader 1.0" in (self.page("/metrics") or "")

    async def ready(self) -> bool:
        return self.page("/readyz") == "ok\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def replicas(there: Stage, tmp_path: Path) -> Iterator[list[Replica]]:
    found = []
    for name in ("one", "two"):
        port = free_port()
        settings = {
            "TROIKA_LEADER_ELECTION": "true",
            "TROIKA_LEADER_NAMESPACE": there.namespace,
            "TROIKA_LEASE_SECONDS": "3",
            "TROIKA_POD_NAME": name,
            "TROIKA_METRICS_PORT": str(port),
            "TROIKA_WATCH_NAMESPACES": there.namespace,
            "TROIKA_LOG_FORMAT": "text",
        }
        with (tmp_path / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "troika_operator"],
                env={**os.environ, **settings},
                stdout=log,
                stderr=log,
            )
        found.append(Replica(process, port))
    yield found
    for replica in found:
        replica.process.kill()
        replica.process.wait()


async def test_the_other_replica_goes_on(there: Stage, replicas: list[Replica]) -> None:
    async def leader() -> Replica | None:
        leading = [replica for replica in replicas if await replica.leads()]
        assert len(leading) <= 1, "two lead at the same time"
        return leading[0] if leading else None

    first = await until(leader, "a leader", seconds=60)
    (second,) = [replica for replica in replicas if replica is not first]
    await until(second.ready, "a replica that stands by")
    await there.apply()
    pods = await there.attempt(0)
    await there.phase("Running")
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    await until(second.leads, "the next leader", seconds=60)
    await there.node.finish(pods[0], 1)
    await there.attempt(1, seconds=60)
    status = await there.phase("Running")
    assert [a["outcome"] for a in status["attempts"]] == ["Failed", "Running"]


async def test_a_leader_that_is_told_to_stop_lets_the_other_in_at_once(
    there: Stage, replicas: list[Replica]
) -> None:
    async def leader() -> Replica | None:
        leading = [replica for replica in replicas if await replica.leads()]
        return leading[0] if leading else None

    first = await until(leader, "a leader", seconds=60)
    (second,) = [replica for replica in replicas if replica is not first]
    await until(first.ready, "a leader that is ready", seconds=60)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(timeout=20) == 0
    lease = await there.admin.get("Lease", "troika-operator", there.namespace)
    assert lease["spec"]["holderIdentity"] in ("", "one", "two")
    await until(second.leads, "the next leader", seconds=20)
