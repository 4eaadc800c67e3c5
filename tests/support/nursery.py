"""Many short-lived trainers for the price of one import.

A process loads torch and transformers once and forks a child for every trainer that a test asks
for: a real process, with a real SIGKILL, that does not spend its first seconds importing. The
trainer's own writing process is forked too.

    python -m support.nursery       reads a JSON object a line: {"argv", "env", "log"}

`NURSERY_SETUP` in "env" names a function, MODULE:NAME, that the child calls before it trains.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Child:
    """A forked trainer, with what tests use of `subprocess.Popen`."""

    def __init__(self, nursery: "Nursery", pid: int) -> None:
        self._nursery, self.pid = nursery, pid
        self.returncode: int | None = None

    def wait(self, timeout: float = 120.0) -> int:
        """Exit code; -n for signal n."""
        if self.returncode is None:
            self.returncode = self._nursery.ask({"wait": self.pid, "seconds": timeout})
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.returncode

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._nursery.ask({"wait": self.pid, "seconds": 0.0})
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to it alone."""
        os.kill(self.pid, number)


class Nursery:
    """The test's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(__file__).parents[1]),
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
            },
        )

    def ask(self, request: dict[str, Any]) -> Any:
        """Send one line, read one."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, argv: list[str], env: dict[str, str], log: Path) -> Child:
        """Fork a trainer."""
        return Child(self, self.ask({"argv": argv, "env": env, "log": str(log)}))

    def close(self) -> None:
        """End it; children that still run are killed."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def nursery() -> Iterator[Nursery]:
    """One for the time of a test module."""
    made = Nursery()
    try:
        yield made
    finally:
        made.close()


def _serve() -> None:
    import time

    import transformers.models.bert.modeling_bert  # noqa: F401 - the expensive part

    import troika_trainer.session  # noqa: F401

    ended: dict[int, int] = {}
    running: set[int] = set()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            deadline = time.monotonic() + request["seconds"]
            pid = request["wait"]
            while pid not in ended:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    ended[pid] = os.waitstatus_to_exitcode(status)
                    running.discard(pid)
                elif time.monotonic() > deadline:
                    break
                else:
                    time.sleep(0.01)
            answer = ended.get(pid)
        else:
            answer = os.fork()
            if answer == 0:
                _become_trainer(request)
            running.add(answer)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def _become_trainer(request: dict[str, Any]) -> None:
    os.setsid()
    os.environ.update(request["env"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["troika_trainer", *request["argv"]]
    code = 1
    try:
        from troika_trainer import __main__

        if "NURSERY_SETUP" in os.environ:
            module, _, function = os.environ["NURSERY_SETUP"].partition(":")
            getattr(importlib.import_module(module), function)()
        subprocess.Popen = _popen  # type: ignore[assignment,misc]
        __main__.main()
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


_Popen = subprocess.Popen


def _popen(command: Any, *arguments: Any, **options: Any) -> Any:
    """The trainer's own Python is forked; compilers and others are programs as ever."""
    forked = isinstance(command, list) and command[:2] == [sys.executable, "-c"]
    return ForkedWriter(command) if forked else _Popen(command, *arguments, **options)


class ForkedWriter:
    """Stands in for `Popen([python, "-c", program, *numbers])`."""

    def __init__(self, command: list[str], **_: object) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            from troika_trainer import writer

            sys.argv = ["-c", *command[3:]]
            with contextlib.suppress(BaseException):
                writer.main()
            os._exit(0)

    def kill(self) -> None:
        """End it."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Reap it."""
        os.waitpid(self.pid, 0)


if __name__ == "__main__":
    _serve()
