"""Run programs, and tell the person who watches what is being done and how long it took."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Argument = str | Path


class DemoError(Exception):
    """The demo cannot go on; the message says what failed and what to do."""


def run(*command: Argument, stdin: str | bytes | None = None, timeout: float = 900) -> str:
    """Run a program to its end and return its standard output; raise what it said if it failed."""
    argv = [str(part) for part in command]
    data = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        done = subprocess.run(argv, input=data, capture_output=True, check=False, timeout=timeout)
    except FileNotFoundError as error:
        raise DemoError(f"{argv[0]} is not installed") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise DemoError(f"{' '.join(argv[:6])} ... exited with {done.returncode}:\n{said}")
    return done.stdout.decode()


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Announce a stage, and say how long it took when it is done."""
    print(f"==> {title}", flush=True)
    began = time.monotonic()
    yield
    print(f"    done in {time.monotonic() - began:.1f} s", flush=True)
