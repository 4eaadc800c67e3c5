"""Run a command to its end, show progress, and take turns with other processes."""

import fcntl
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import CommandError

Argument = str | Path | int

SECONDS_OF_SILENCE = 30.0
"""A person at the terminal wonders after that."""


def run(
    *command: Argument,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run `command`, return its standard output; `env` comes on top of our own environment."""
    argv = [str(part) for part in command]
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
    except FileNotFoundError as error:
        raise CommandError(f"{argv[0]}: no such program") from error
    if done.returncode != 0:
        # Errors last: that is where a person looks, and what a cut log would keep.
        output = f"{tail(done.stdout, lines=15)}\n{tail(done.stderr, lines=15)}"
        raise CommandError(f"exit {done.returncode} from: {shlex.join(argv)[:500]}\n{output}")
    return done.stdout


def succeeds(*command: Argument) -> bool:
    """Whether `command` exits with 0."""
    try:
        run(*command)
    except CommandError:
        return False
    return True


def tail(text: str, *, lines: int = 30) -> str:
    """The last lines of `text`, indented."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:])


def say(message: str) -> None:
    """Tell the person at the terminal; standard output stays free for answers."""
    print(f"cluster: {message}", file=sys.stderr, flush=True)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Report how long a stage took, once it is done, and that it goes on where that is long."""
    began = time.monotonic()
    ended = threading.Event()

    def reassure() -> None:
        while not ended.wait(SECONDS_OF_SILENCE):
            say(f"... {name} ({time.monotonic() - began:.0f} s so far)")

    threading.Thread(target=reassure, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
    say(f"{name} ({time.monotonic() - began:.1f} s)")


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold `lock`; the kernel lets go of it when we die, so it can never be stale."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that holds {lock}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
