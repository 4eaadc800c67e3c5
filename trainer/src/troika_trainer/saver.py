"""The trainer's side of the writing process: at most one save in flight.

A save goes on in threads, whatever the loop does meanwhile. It must: the first rank commits when
all have written, and another rank may be in a step that needs the first one to go on.
"""

import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from .errors import TrainerError
from .staging import Staging, State
from .writer import PR_SET_PDEATHSIG, READY, Answer, Request, write

log = logging.getLogger(__name__)

_PROGRAM = (
    f"import ctypes, os; ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, 9); os.nice(5); "
    "from troika_trainer import writer; writer.main()"
)
"""Tied to its trainer before it loads anything. Nice, for steps come first. Not `-m`: what a main
module defines cannot be unpickled here."""


class Saver:
    """Has staged states written, by a process of its own where it runs, or else here and now."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection | None = None
        self._ready = False
        self._memory = os.memfd_create("troika-checkpoint")
        self._staging: Staging | None = None
        self._copies = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._copying: Future[None] | None = None
        self._writing: Future[tuple[Answer, bool]] | None = None
        self._done: Answer | None = None

    @property
    def busy(self) -> bool:
        """Whether a save is in flight on this rank."""
        return self._writing is not None

    @property
    def started(self) -> bool:
        """Whether there is a process, or soon will be."""
        return self._process is not None

    def start(self) -> None:
        """Start the process; it takes seconds to load torch, and nobody waits for it."""
        self._link, theirs = Pipe()
        descriptors = (theirs.fileno(), self._memory)
        numbers = map(str, (*descriptors, os.getpid()))
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-c", _PROGRAM, *numbers],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        )
        theirs.close()
        self._ready = False

    def close(self) -> None:
        """End the process, if it has nothing to write; else it ends with its trainer."""
        if self._process is not None and not self.busy:
            self._process.kill()
            self._process.wait()
            self._process = self._link = None

    def begin(self, staging: Staging, request: Request, state: State) -> None:
        """Begin to copy the state, to have it written. Nothing else may be in flight.

        Weights and optimizer must stay as they are until `copied` has returned.

        Args:
            staging: The plan, the same in every save.
            request: What to write; its `small` is filled in here.
            state: Weights and optimizer state.
        """
        assert not self.busy
        if self._staging is None:
            self._staging = staging
            staging.map(self._memory)
        rest = staging.take(state)
        request.small.update(staging.taken.small)
        link = self._link if self._is_ready(staging) else None
        copying = self._copying = self._copies.submit(rest)
        writing = self._writing = Future()

        def work() -> None:
            try:
                copying.result()
                writing.set_result(_written(staging, request, link))
            except BaseException as error:  # noqa: BLE001 - the trainer raises it
                writing.set_exception(error)

        # A daemon: a trainer that fails does not wait for ranks that will never write.
        threading.Thread(target=work, name="saving", daemon=True).start()

    def copied(self) -> None:
        """Wait until the copy is whole."""
        if self._copying is not None:
            copying, self._copying = self._copying, None
            copying.result()

    def poll(self) -> Answer | None:
        """The save that has ended since, if any; raises what went wrong with it."""
        if self._writing is not None and self._writing.done():
            self.wait()
        done, self._done = self._done, None
        return done

    def wait(self) -> None:
        """Wait for the end of the save in flight; `poll` then tells of it."""
        if self._writing is None:
            return
        self.copied()
        writing, self._writing = self._writing, None
        self._done, is_gone = writing.result()
        if is_gone:
            self._process = self._link = None

    def _is_ready(self, staging: Staging) -> bool:
        try:
            if self._link is not None and not self._ready and self._link.poll():
                assert self._link.recv() == READY
                self._link.send(staging.layout)
                self._ready = True
        except (EOFError, ConnectionError):
            log.warning("the writing process is gone; the trainer writes by itself")
            self._link = None
        return self._link is not None and self._ready


def _written(staging: Staging, request: Request, link: Connection | None) -> tuple[Answer, bool]:
    """Have the copy written by the process, or where there is none, here.

    Returns:
        What was written, and whether the process was found to be gone.
    """
    if link is None:
        return write(staging.layout, staging.taken, request), False
    try:
        link.send(request)
        answer: Answer | TrainerError = link.recv()
    except (EOFError, ConnectionError):
        # Killed, most likely for memory. The copy is here and still whole.
        log.warning("the writing process is gone; the trainer writes %s", request.final)
        return write(staging.layout, staging.taken, request), True
    if isinstance(answer, TrainerError):
        raise answer
    return answer, False
