"""Start daemons, remember them, wait for them, end them.

A process is remembered by its id and its start time, so that a record from before a reboot or a
kill never points at somebody else's process that was given the same id.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.errors import ComponentError
from cluster.settings import PLACES
from cluster.shell import tail

Command = Iterable[str | Path | int]
RECORDS = PLACES.run / "processes"


@dataclass(frozen=True)
class Process:
    """A process that we started, or found."""

    name: str
    pid: int
    start_time: int
    """In clock ticks since the machine's start, from /proc."""

    @property
    def alive(self) -> bool:
        """Whether exactly this process still runs; a zombie does not."""
        return _start_time(self.pid) == self.start_time

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return log_of(self.name)


def log_of(name: str) -> Path:
    """The log of the component `name`."""
    return PLACES.logs / f"{name}.log"


def start(name: str, command: Command, path: str | None = None) -> Process:
    """Start a daemon in a session of its own, so that it outlives us and our terminal."""
    argv = [str(part) for part in command]
    environment = {**os.environ, "PATH": path or os.environ.get("PATH", os.defpath)}
    log = log_of(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    # Not subprocess: a Popen that is dropped while its process runs warns, and pytest makes the
    # warning an error.
    pid = os.posix_spawnp(
        argv[0],
        argv,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigdef=[signal.SIGPIPE],
    )
    process = Process(name, pid, _start_time(pid) or 0)
    RECORDS.mkdir(parents=True, exist_ok=True)
    (RECORDS / f"{name}.json").write_text(json.dumps(asdict(process)))
    return process


def recorded() -> dict[str, Process]:
    """The daemons of the cluster that was started last, dead or alive, by name."""
    found = (Process(**json.loads(file.read_text())) for file in sorted(RECORDS.glob("*.json")))
    return {process.name: process for process in found}


def find(program: str, marker: str) -> list[Process]:
    """Processes of a program that name `marker` on their command line, whoever started them.

    The program counts: somebody's shell may name the same file, and must not die for it.
    """
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        pid = int(file.parent.name)
        try:
            command = file.read_text(errors="replace")
        except OSError:
            continue
        if Path(command.partition("\0")[0]).name.startswith(program) and marker in command:
            found.append(Process("found", pid, _start_time(pid) or 0))
    return found


def wait_for(
    process: Process | None, ready: Callable[[], bool], *, what: str, timeout: float = 60
) -> None:
    """Wait until `ready`; raise ComponentError with the end of the log if `process` dies first."""
    deadline = time.monotonic() + timeout
    while not ready():
        dead = process is not None and not process.alive
        if dead or time.monotonic() > deadline:
            verdict = "died" if dead else f"is not there after {timeout:.0f} s"
            log = tail(process.log.read_text(errors="replace")) if process else ""
            where = f"; the end of {process.log}:\n{log}" if process else ""
            raise ComponentError(f"{what}: {process.name if process else 'it'} {verdict}{where}")
        time.sleep(0.05)


def stop(processes: Iterable[Process], *, grace: float = 5) -> None:
    """Ask politely, wait, then kill; return when all of them are gone."""
    waiting = [process for process in processes if _send(process, signal.SIGTERM)]
    deadline = time.monotonic() + grace
    while waiting := [process for process in waiting if process.alive]:
        if time.monotonic() > deadline:
            for process in waiting:
                _send(process, signal.SIGKILL)
        time.sleep(0.02)


def kill(pids: Iterable[int]) -> None:
    """End processes that are owed no last word."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _send(process: Process, number: signal.Signals) -> bool:
    if not process.alive:
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _start_time(pid: int) -> int | None:
    """When the process started, or None where it has ended; reaps it if it was our child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        # The second field is the program's name in parentheses, and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])
