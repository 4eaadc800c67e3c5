"""What becomes of the pod: starts the node's ranks and has the last word.

Its own work is small: join the other nodes (torchrun's c10d rendezvous), start one process a GPU,
restart them in place when that can help, pass SIGTERM on, and write down how it ended.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from troika_api import contract
from troika_api.contract import ExitCode, LastWord

from . import errors, lastword, logs, preview, runfile
from .place import Place

if TYPE_CHECKING:
    from .agent import Agent

log = logging.getLogger(__name__)

MAX_RESTARTS = 3
SHUTDOWN_SECONDS = 600
"""How long ranks may take to finish a step and save; the kubelet's grace period is shorter."""
JOIN_SECONDS = 900
"""How long nodes wait for each other: a pod may pull its image first."""


@dataclass(frozen=True)
class Gang:
    """How many nodes and processes, and where they meet."""

    nodes: int
    processes: int | None
    """Processes on each node, or None for one a GPU."""
    node_rank: int | None
    endpoint: str
    rendezvous_id: str

    @classmethod
    def of_environment(cls) -> "Gang":
        """What the operator says; one node that meets nobody where it says nothing."""
        processes = os.environ.get(contract.ENV_NPROC_PER_NODE) or "auto"
        rank = os.environ.get(contract.ENV_NODE_RANK)
        return cls(
            nodes=int(os.environ.get(contract.ENV_NNODES) or "1"),
            processes=int(processes) if processes.isdigit() else None,
            node_rank=int(rank) if rank else None,
            endpoint=os.environ.get(contract.ENV_RDZV_ENDPOINT) or "localhost:0",
            rendezvous_id=os.environ.get(contract.ENV_RDZV_ID) or f"local-{os.getpid()}",
        )

    def meet(self) -> str:
        """Wait until node 0 is there, whose pod may still be pulling its image.

        Returns:
            The address of this machine as node 0 sees it, so that no name service is needed.

        Raises:
            CommunicationError: node 0 did not appear.
        """
        host, _, port = self.endpoint.rpartition(":")
        host = host.strip("[]")
        deadline = time.monotonic() + JOIN_SECONDS
        while True:
            try:
                if self.node_rank in (None, 0):
                    return _route_to(host)
                with socket.create_connection((host, int(port)), timeout=5) as connection:
                    return str(connection.getsockname()[0])
            except OSError as error:
                if time.monotonic() > deadline:
                    raise errors.CommunicationError(f"{self.endpoint}: {error}") from error
            time.sleep(0.2)


def _route_to(host: str) -> str:
    """The address of this machine on the way to another. Sends nothing."""
    family, _, _, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def main(received: Sequence[int]) -> NoReturn:
    """Run to the end, write the last word, exit with the contract's code.

    Args:
        received: Signals that came before; noted until the handlers of this are there.
    """
    logs.configure(Place.of(os.environ))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _terminate_early)
    if received:
        _terminate_early(received[0], None)
    try:
        path = runfile.find_run_file(sys.argv[1:])
        run, gang = runfile.read_run(path), Gang.of_environment()
        if gang.node_rank in (None, 0):  # one node is enough: the others wait for it
            preview.look(run)
        word, code = _run(path, gang)
    except errors.TrainerError as error:
        found = errors.verdict(error)
        log.error("failed: %s", found.message)  # noqa: TRY400 - the sentence says it all
        word, code = lastword.failed(found), found.exit_code
    except Exception as error:
        log.exception("the launcher failed")
        found = errors.verdict(error)
        word, code = lastword.failed(found), found.exit_code
    lastword.write(word)
    sys.exit(code)


def _terminate_early(_number: int, _frame: FrameType | None) -> None:
    """A signal before there is any process to tell; PID 1 gets only those that it handles."""
    lastword.write(LastWord(outcome="Terminated", message="SIGTERM at start", time=time.time()))
    os._exit(ExitCode.TERMINATED)


def _run(path: Path, gang: Gang) -> tuple[LastWord, int]:
    # torch takes seconds to import; a bad run file and missing data have been refused by now.
    from torch.distributed.elastic.multiprocessing.api import SignalException  # noqa: PLC0415
    from torch.distributed.elastic.rendezvous.api import RendezvousError  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="troika-launch-") as scratch:
        try:
            agent = build_agent(path, gang, Path(scratch))
            handler = agent.get_worker_group().spec.rdzv_handler
        except RendezvousError as error:
            return lastword.peers_lost(str(error), [])
        try:
            agent.run()
        except SignalException as error:
            # The rendezvous stays open: the other nodes stop by themselves, in order.
            log.warning("received %s", error.sigval.name)
            return lastword.conclude(agent.ends())
        except (RendezvousError, errors.CommunicationError) as error:
            return lastword.peers_lost(f"{type(error).__name__}: {error}", agent.ends())
        handler.shutdown()
        return lastword.conclude(agent.ends())


def build_agent(path: Path, gang: Gang, scratch: Path) -> "Agent":
    """Torchrun's agent for this node."""
    import torch  # noqa: PLC0415
    from torch.distributed.elastic.agent.server.api import WorkerSpec  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs  # noqa: PLC0415
    from torch.distributed.elastic.rendezvous import RendezvousParameters  # noqa: PLC0415
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler  # noqa: PLC0415

    from .agent import Agent  # noqa: PLC0415

    processes = gang.processes or max(1, torch.cuda.device_count())
    address = gang.meet()
    meeting = RendezvousParameters(
        backend="c10d",
        endpoint=gang.endpoint,
        run_id=gang.rendezvous_id,
        min_nodes=gang.nodes,
        max_nodes=gang.nodes,
        local_addr=address,
        is_host=gang.node_rank in (None, 0),
        join_timeout=JOIN_SECONDS,
        last_call_timeout=1,
        # A node that is only slow must not be struck off; the operator knows the dead ones.
        keep_alive_max_attempt=24,
    )
    spec = WorkerSpec(
        role="trainer",
        local_world_size=processes,
        entrypoint=sys.executable,
        args=("-m", "troika_trainer", str(path)),
        rdzv_handler=get_rendezvous_handler(meeting),
        max_restarts=MAX_RESTARTS,
        monitor_interval=0.1,
        local_addr=address,
    )
    return Agent(
        spec,
        DefaultLogsSpecs(log_dir=str(scratch)),
        node_rank=gang.node_rank,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
