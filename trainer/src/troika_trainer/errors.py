"""What can end a run, each with the class that decides what happens next.

::

    TrainerError
    ├── ConfigError         BadConfig      the run file asks for something that cannot be
    ├── DataError           BadData        a file, row, column or label is not what was promised
    ├── NonFiniteError      NonFinite      loss or gradient is no number
    ├── OutOfMemoryError    OutOfMemory    the device or the node is full
    │   └── ShrunkError     (restart)      the same, and a restart in place will need less
    ├── CommunicationError  Communication  another rank or node went away
    ├── StorageError        Storage        disk full, volume gone, checkpoint damaged
    └── TerminatedError     (none)         SIGTERM: saved and left
"""

import contextlib
import json
import logging
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from troika_api.contract import (
    CLASS_OF_EXIT_CODE,
    ExitCode,
    FailureClass,
    LastWord,
    TrainerStatus,
)

from .place import Place

log = logging.getLogger(__name__)

EXIT_CODE_OF_CLASS = {
    failure: code for code, failure in CLASS_OF_EXIT_CODE.items() if code != ExitCode.TERMINATED
}
EXIT_CRASH = 1
MESSAGE_LENGTH = 1500
"""Characters that the contract allows a message."""
OUT_OF_MEMORY_REMEDY = (
    "halve training.microBatchSize (the global batch stays the same) or ask for more memory"
)


class TrainerError(Exception):
    """A failure that we understand: a sentence about what is wrong and one about what to change."""

    failure: ClassVar[FailureClass | None] = None
    restarts: ClassVar[bool] = False
    """Whether the launcher should start the same processes again before the operator decides."""

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


class ConfigError(TrainerError):
    """The run file asks for something that does not exist or does not fit together."""

    failure = FailureClass.BAD_CONFIG


class DataError(TrainerError):
    """A file, row, column or label is not what the run file promised."""

    failure = FailureClass.BAD_DATA


class NonFiniteError(TrainerError):
    """Loss or gradient is infinite or not a number."""

    failure = FailureClass.NON_FINITE


class OutOfMemoryError(TrainerError):
    """The device or the node has no memory left."""

    failure = FailureClass.OUT_OF_MEMORY

    @classmethod
    def at_one_sequence(cls, where: str) -> "OutOfMemoryError":
        """There is nothing left to halve."""
        return cls(
            f"memory ran out {where}, with one sequence at a time on each rank",
            "use training.activationCheckpointing Full, training.sharding FSDP on more GPUs, or "
            "method LoRA; shorten the sequences, or ask for more memory",
        )


class ShrunkError(OutOfMemoryError):
    """Memory ran out where the ranks cannot go on; a smaller micro-batch is noted for the next."""

    restarts = True


class CommunicationError(TrainerError):
    """Another rank or node cannot be reached any more."""

    failure = FailureClass.COMMUNICATION


class StorageError(TrainerError):
    """A disk is full, a volume is gone, or a checkpoint cannot be written or read."""

    failure = FailureClass.STORAGE


class TerminatedError(TrainerError):
    """SIGTERM: this process has saved what there was to save."""


@dataclass(frozen=True)
class Verdict:
    """What a failure means: the class, the exit code, and the words for people."""

    failure: FailureClass | None
    exit_code: int
    message: str
    remedy: str | None = None


def verdict(error: BaseException) -> Verdict:
    """Sort any exception into a class of the contract."""
    error = _translate(error)
    if isinstance(error, TerminatedError | KeyboardInterrupt):
        return Verdict(None, ExitCode.TERMINATED, str(error) or "interrupted")
    if isinstance(error, TrainerError) and error.failure:
        code = EXIT_CRASH if error.restarts else EXIT_CODE_OF_CLASS[error.failure]
        return Verdict(error.failure, code, str(error), error.remedy)
    return Verdict(
        FailureClass.CRASH, EXIT_CRASH, f"{_where(error)}{type(error).__name__}: {error}"
    )


def _translate(error: BaseException) -> BaseException:
    """Give the errors of torch and the system our classes. Names, because torch may not be here."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error)
    if isinstance(error, TrainerError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(_first_line(text) or "no memory left", OUT_OF_MEMORY_REMEDY)
    if "DistError" in names or (
        isinstance(error, RuntimeError)
        and any(word in text for word in ("gloo", "NCCL", "Connection closed by peer"))
    ):
        # gloo puts its source file before what it says, and advice after it.
        said = re.sub(r"\[/\S+\] ?", "", _first_line(text)).partition(" This is typically")[0]
        return CommunicationError(f"lost another rank: {said}")
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return CommunicationError(f"{type(error).__name__}: {text}")
    if "CheckpointException" in names or isinstance(error, OSError):
        return StorageError(
            f"{type(error).__name__}: {text.strip()}"[:600],
            "check that the volume is mounted, writable and not full",
        )
    return error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python says that the device or the process has no memory left.

    cuBLAS and cuDNN have errors of their own for it, which torch passes on as they are.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    signs = (
        "DefaultCPUAllocator",
        "CUDA out of memory",
        "CUDA error: out of memory",  # torch.AcceleratorError: outside of torch's allocator
        "CUDA driver error: out of memory",  # of its expandable segments
        "CUDA ran out of memory",  # cuDNN, which compiles kernels as it goes
        "HIP error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
    )
    return (
        "OutOfMemoryError" in names
        or isinstance(error, MemoryError)
        or any(sign in str(error) for sign in signs)
    )


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}: " if frames else ""  # noqa: PTH119


class Ending:
    """How this process ends: the reason for torchrun and the launcher, and then out."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.status: TrainerStatus | None = None
        """What the run had reached, once it is known."""

    def record(self, found: Verdict, stack: str = "") -> None:
        """Leave the reason where torchrun looks, in its own format with ours beside it."""
        if self._place.error_file is None:
            return
        word = LastWord(
            outcome="Failed" if found.failure else "Terminated",
            failure=found.failure,
            message=found.message[:MESSAGE_LENGTH],
            remedy=found.remedy,
            rank=self._place.rank,
            time=time.time(),
            status=self.status,
        )
        extra = {"py_callstack": stack, "timestamp": str(int(word.time)), "word": word.to_json()}
        body = {"message": {"message": found.message, "extraInfo": extra}}
        staged = self._place.error_file.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # a full disk: the exit code must do
            staged.write_text(json.dumps(body))
            staged.replace(self._place.error_file)  # torchrun fails on a file cut short

    def leave(self, code: int) -> None:
        """End the process now: threads of a broken process group would hold up a normal exit."""
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def reported(place: Place) -> Iterator[Ending]:
    """Whatever goes wrong inside ends the process with its record, one log line and its code."""
    ending = Ending(place)
    try:
        yield ending
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - this is the one place where every error ends
        found = verdict(error)
        stack = traceback.format_exc() if found.failure is FailureClass.CRASH else ""
        ending.record(found, stack)
        fields = {"failure": found.failure, "remedy": found.remedy}
        if found.failure is None:
            log.warning("terminated: %s", found.message)
        else:
            # The stack is in the record of a crash; the other classes are explained in a sentence.
            log.error("failed: %s%s", found.message, f"\n{stack}" if stack else "", extra=fields)  # noqa: TRY400
        ending.leave(found.exit_code)
