"""The process that writes checkpoints while the trainer goes on: `writer.main()`.

Every rank has one. It writes that rank's files and, on the first rank, waits until those of all
ranks are on the disk and commits: manifest, look at the fence, rename. Ranks meet in the staged
directory and need no process group. It ignores SIGTERM and dies with its trainer.
"""

import ctypes
import dataclasses
import logging
import os
import pickle
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.storage import WriteResult

from troika_api.term import Term

from .directories import prune, replace, steps, superfluous
from .errors import CommunicationError, StorageError, TrainerError
from .fence import Fence
from .integrity import Identity, identity, sync_directory, write_durably
from .layout import Layout, Taken
from .manifest import Manifest

log = logging.getLogger(__name__)

READY = "ready"
REMEDY = "make room on the volume of checkpoint.uri, or lower checkpoint.keep"
PR_SET_PDEATHSIG = 1
SECONDS_BETWEEN_LOOKS = 0.02


@dataclass(frozen=True)
class Request:
    """One save, as one rank sees it."""

    staged: Path
    final: Path
    manifest: Manifest
    """Without files: only the writer knows them."""
    rank: int
    term: Term
    keep: int
    damaged: frozenset[int]
    """Steps of checkpoints that were found to be of no use."""
    small: dict[MetadataIndex, bytes]


@dataclass(frozen=True)
class Answer:
    """A save that this rank has finished: committed, on the first rank."""

    manifest: Manifest
    seconds: float


def write(layout: Layout, taken: Taken, request: Request) -> Answer:
    """Write this rank's part; on the first rank, wait for the others and commit.

    Raises:
        StorageError: it cannot be written; what was is gone.
        CommunicationError: another rank gave up, or a newer attempt has taken over.
        ConfigError: a newer job has.
    """
    started = time.monotonic()
    manifest = _committed(request) or _written(layout, taken, request)
    if request.rank == 0:
        _tidy(request)
    return Answer(manifest, time.monotonic() - started)


def _written(layout: Layout, taken: Taken, request: Request) -> Manifest:
    try:
        storage = FileSystemWriter(request.staged)
        results = storage.write_data(layout.plan, taken).wait()
        names = sorted({result.storage_data.relative_path for result in results})
        files = {name: identity(request.staged / name) for name in names}
        part = request.staged / f"part-{request.rank}"
        write_durably(part, pickle.dumps((results, files)))
        return _commit(layout, request) if request.rank == 0 else request.manifest
    except OSError as error:
        gave_up = not request.staged.exists() and request.staged.parent.exists()
        shutil.rmtree(request.staged, ignore_errors=True)
        if gave_up:
            Fence(request.staged.parent, request.term).check()
            raise CommunicationError(f"another rank gave up {request.staged.name}") from error
        raise _storage_error(request, layout, error) from error
    except BaseException:
        shutil.rmtree(request.staged, ignore_errors=True)
        raise


def _committed(request: Request) -> Manifest | None:
    """The checkpoint, where a writing process was killed after its commit and before its answer."""
    if request.staged.exists() or not request.final.exists():
        return None
    manifest = Manifest.read(request.final)
    return manifest if manifest and manifest.term == str(request.term) else None


def _tidy(request: Request) -> None:
    """What is not needed any more. The checkpoint is there: nothing here may fail its save."""
    directory, progress = request.final.parent, request.manifest.progress
    try:
        Fence(directory, request.term).check()  # a newer owner knows what is needed, and prunes
        for part in request.final.glob("part-*"):
            part.unlink()
        doomed = superfluous(
            steps(directory),
            committed=progress.step,
            best=progress.best_step,
            damaged=request.damaged,
            keep=request.keep,
        )
    except OSError as error:
        log.warning("%s cannot be tidied up: %s", directory, error.strerror)
    except TrainerError as error:
        log.warning("%s is not tidied up: %s", directory, error)  # the next save ends the run
    else:
        prune(directory, doomed, request.term)


def _storage_error(request: Request, layout: Layout, error: OSError) -> StorageError:
    try:
        free = shutil.disk_usage(request.staged.parent).free >> 20
        room = f" ({free} MiB free; rank {request.rank} writes {layout.size >> 20} MiB)"
    except OSError:
        room = ""
    step = request.manifest.progress.step
    return StorageError(
        f"cannot write the checkpoint of step {step} to {request.final.parent}: "
        f"{error.strerror or error}{room}; older checkpoints are untouched",
        REMEDY,
    )


def _commit(layout: Layout, request: Request) -> Manifest:
    staged, final = request.staged, request.final
    parts = _parts(staged, request.manifest.world_size)
    results = [part[0] for part in parts]
    files = {name: entry for part in parts for name, entry in part[1].items()}
    FileSystemWriter(staged).finish(layout.metadata, results)
    files[".metadata"] = identity(staged / ".metadata")
    # The parts stay until after the commit: a writer that is killed here is followed by another
    # one, which needs those of all ranks.
    manifest = dataclasses.replace(request.manifest, files=files, time=time.time())
    manifest.write(staged)
    # An owner that registers after this look takes the staged directory away before it looks for
    # checkpoints: then the rename fails.
    Fence(final.parent, request.term).check()
    replace(staged, final, request.term)
    sync_directory(final.parent)
    return manifest


def _parts(staged: Path, ranks: int) -> list[tuple[list[WriteResult], dict[str, Identity]]]:
    """What every rank has written, in order, once all of it is on the disk."""
    names = [f"part-{rank}" for rank in range(ranks)]
    while not set(names) <= set(os.listdir(staged)):  # noqa: PTH208 - listing sees others' files
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return [pickle.loads((staged / name).read_bytes()) for name in names]  # noqa: S301 - ours


def main() -> None:
    """Serve one trainer: first its layout, then a request for every save."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the trainer decides when this ends
    link, memory, parent = map(int, sys.argv[1:])
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    torch.set_num_threads(1)
    connection: Connection = Connection(link)
    try:
        connection.send(READY)
        layout: Layout = connection.recv()
        taken = Taken.mapped(layout, memory)
        while True:
            request: Request = connection.recv()
            taken.small = request.small
            try:
                answer: Answer | TrainerError = write(layout, taken, request)
            except TrainerError as error:
                answer = error
            except Exception as error:  # noqa: BLE001 - the trainer raises it
                answer = StorageError(f"cannot write {request.final}: {error!r}")
            connection.send(answer)
    except (EOFError, ConnectionError):
        return  # the trainer has ended
