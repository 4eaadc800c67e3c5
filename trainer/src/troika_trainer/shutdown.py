"""SIGTERM and SIGINT: finish the step and save, or leave at once where nothing can be lost."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from troika_api.contract import ExitCode

from .errors import Ending, Verdict


class StopSignal:
    """Notices a signal even while the main thread is inside C code, where no handler can run.

    The interpreter writes the number of a signal to a pipe at once, and a thread waits there:
    a tokenizer being trained or a wait for another rank cannot hold up the end of the pod.
    """

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._lock = threading.Lock()
        self._free_to_leave = True
        self.requested = False
        """Whether this process was asked to stop; the loop tells the other ranks."""

    def install(self) -> "StopSignal":
        """Watch from here on. Until `finishing_steps` begins, a signal ends the process at once."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _ignore)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()
        return self

    @contextlib.contextmanager
    def finishing_steps(self) -> Iterator[None]:
        """In here there is work to save: a signal only sets `requested`."""
        with self._lock:
            self._free_to_leave = False
        yield
        with self._lock:
            self._free_to_leave = True
            if self.requested:
                self._leave()

    def _watch(self, reader: int) -> None:
        while number := os.read(reader, 1):
            if number[0] not in (signal.SIGTERM, signal.SIGINT):
                continue
            with self._lock:
                self.requested = True
                if self._free_to_leave:
                    self._leave()

    def _leave(self) -> None:
        found = Verdict(None, ExitCode.TERMINATED, "stopped while nothing had to be saved")
        self._ending.record(found)
        self._ending.leave(found.exit_code)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler must exist for the wake-up to be written; the thread does the work."""
