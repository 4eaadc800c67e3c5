"""torchrun's agent with our rules: stable ranks, no useless restart, the first cause kept."""

import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SubprocessContext
from typing_extensions import override

from troika_api.contract import NEVER_RETRIED, ExitCode, FailureClass

from .errors import EXIT_CODE_OF_CLASS, CommunicationError
from .lastword import ProcessEnd, conclude
from .place import ENV_ROUND, ENV_STARTED_AGAIN

FINAL_EXIT_CODES = frozenset(
    {
        ExitCode.TERMINATED,
        EXIT_CODE_OF_CLASS[FailureClass.OUT_OF_MEMORY],
        *(EXIT_CODE_OF_CLASS[failure] for failure in NEVER_RETRIED),
    }
)
"""Exits after which starting the same processes again on this node is no use."""

LAST_WORDS_SECONDS = 3.0
"""After one process has failed the others notice the broken connection and say so themselves."""

CLOSED_CHECK_SECONDS = 2.0


def _name_of_round(worker_group: WorkerGroup) -> str:
    """A name for this start of the processes that all nodes share, and no earlier start had.

    All starts meet in one store, and nodes may have counted different numbers of restarts.
    """
    store: Any = worker_group.store
    key = "troika/round"
    if worker_group.group_rank == 0:
        store.set(key, uuid.uuid4().hex)
    name: str = store.get(key).decode()
    return name


class Agent(LocalElasticAgent):
    """Starts, watches and restarts the processes of one node."""

    def __init__(self, *args: Any, node_rank: int | None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._node_rank = node_rank
        self._closed_check = time.monotonic()
        self._ends: list[ProcessEnd] = []

    @override
    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        if self._ends:
            os.environ[ENV_STARTED_AGAIN] = conclude(self._ends)[0].message[:300]
        self._ends = []
        os.environ[ENV_ROUND] = _name_of_round(worker_group)
        started: dict[int, Any] = super()._start_workers(worker_group)
        return started

    @override
    def _assign_worker_ranks(self, store: Any, group_rank: int, *args: Any, **kwargs: Any) -> Any:
        """Rank 0 is on node 0: c10d numbers nodes by address, the operator asks pod 0."""
        workers = super()._assign_worker_ranks(store, group_rank, *args, **kwargs)
        if self._node_rank is not None:
            for worker in workers:
                first = self._node_rank * len(workers)
                worker.global_rank = worker.role_rank = first + worker.local_rank
        return workers

    @override
    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        if self._failed():
            # Let the others say what they saw, then end those that still hang in a collective:
            # what torchrun does by itself is to wait 30 seconds for them.
            deadline = time.monotonic() + LAST_WORDS_SECONDS
            while time.monotonic() < deadline and any(e.exit_code is None for e in self._all()):
                time.sleep(0.05)
            self._ends = self._failed()
            if any(end.exit_code in FINAL_EXIT_CODES for end in self._ends):
                self._remaining_restarts = 0
            return RunResult(state=WorkerState.FAILED)
        self._check_closed(worker_group)
        result: RunResult = super()._monitor_workers(worker_group)
        return result

    @override
    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        """A restart begins from the newest checkpoint: there is nothing to wait for."""
        self._shutdown(signal.SIGKILL)

    def ends(self) -> list[ProcessEnd]:
        """How the processes of this node ended: the first failures, or else all of them."""
        return self._ends or self._all()

    def _all(self) -> list[ProcessEnd]:
        context = self._pcontext
        if not isinstance(context, SubprocessContext):
            return []
        return [
            ProcessEnd(
                rank=worker.global_rank,
                exit_code=context.subprocess_handlers[worker.local_rank].proc.poll(),
                error_file=Path(context.error_files[worker.local_rank]),
            )
            for worker in self._worker_group.workers
        ]

    def _failed(self) -> list[ProcessEnd]:
        return [end for end in self._all() if end.exit_code not in (None, 0)]

    def _check_closed(self, worker_group: WorkerGroup) -> None:
        """Torchrun does not look: a node whose peer gave up for good would wait for ever."""
        now = time.monotonic()
        if worker_group.group_world_size == 1 or now - self._closed_check < CLOSED_CHECK_SECONDS:
            return
        self._closed_check = now
        if worker_group.spec.rdzv_handler.is_closed():
            raise CommunicationError("another node has ended this attempt")
