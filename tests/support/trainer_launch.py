"""Start the trainer as a pod does, watch it, hurt it, and read how it ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from troika_api.contract import LastWord, TrainerStatus

DEADLINE = 300.0
"""Seconds for anything that a test waits for; a busy machine starts torch slowly."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Launched:
    """One launcher: what a trainer pod runs."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._log = folder / "stdout"
        self._word = folder / "termination-log"
        own = {
            "TROIKA_METRICS_PORT": str(self.port),
            "TROIKA_TERMINATION_LOG": str(self._word),
            "OMP_NUM_THREADS": "1",
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **own, **environment}
            )

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(DEADLINE)

    def word(self) -> LastWord:
        """The pod's last word."""
        return LastWord.model_validate_json(self._word.read_text())

    def lines(self, message: str) -> list[dict[str, Any]]:
        """The log lines with this message."""
        found = []
        for line in self._log.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("message") == message:
                found.append(entry)
        return found

    def validation(self) -> dict[int, float]:
        """Validation loss by step."""
        return {entry["step"]: entry["loss"] for entry in self.lines("validation")}

    def output(self) -> str:
        """Everything that was printed."""
        return self._log.read_text()

    def get(self, path: str) -> str | None:
        """A page of the metrics port, or None where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=5) as page:
                return str(page.read().decode())
        except OSError:
            return None

    def status(self) -> TrainerStatus | None:
        """The status, or None where nobody answers."""
        page = self.get("status")
        return TrainerStatus.model_validate_json(page) if page else None

    def reached(self, step: int) -> bool:
        """Whether the run is that far."""
        status = self.status()
        return status is not None and status.step >= step

    def workers(self) -> list[int]:
        """Processes that the launcher started."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in children.split()]

    def end(self) -> None:
        """Leave nothing behind, whatever the test did."""
        if self.process.poll() is None:
            for pid in [*self.workers(), self.process.pid]:
                os.kill(pid, signal.SIGKILL)
            self.process.wait()


class Launcher:
    """Starts launchers and ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Launched] = []

    def start(self, run: dict[str, Any], *, ranks: int = 1, **environment: str) -> Launched:
        """One node with so many ranks."""
        folder = self._folder / str(len(self._started))
        folder.mkdir(parents=True)
        path = folder / "run.json"
        path.write_text(json.dumps(run))
        command = [sys.executable, "-m", "troika_trainer.entry", str(path)]
        return self._start(command, folder, {"PET_NPROC_PER_NODE": str(ranks), **environment})

    def start_nodes(self, *runs: dict[str, Any], attempt: int = 0) -> list[Launched]:
        """A node with one rank for each run; they meet on this machine."""
        meeting: dict[str, Any] = {
            "PET_NNODES": str(len(runs)),
            "PET_RDZV_ENDPOINT": f"127.0.0.1:{free_port()}",
            "PET_RDZV_ID": f"run-{attempt}",
            "TROIKA_ATTEMPT": str(attempt),
        }
        return [
            self.start(run, **{**meeting, "PET_NODE_RANK": str(rank)})
            for rank, run in enumerate(runs)
        ]

    def torchrun(self, run: dict[str, Any], *, ranks: int) -> Launched:
        """Without our launcher."""
        folder = self._folder / str(len(self._started))
        folder.mkdir(parents=True)
        path = folder / "run.json"
        path.write_text(json.dumps(run))
        module = "torch.distributed.run"
        command = [sys.executable, "-m", module, "--standalone", f"--nproc-per-node={ranks}"]
        return self._start([*command, "-m", "troika_trainer", str(path)], folder, {})

    def _start(self, command: list[str], folder: Path, environment: dict[str, str]) -> Launched:
        launched = Launched(command, folder, environment)
        self._started.append(launched)
        return launched

    def end(self) -> None:
        """End what still runs."""
        for launched in self._started:
            launched.end()


@contextmanager
def launching(folder: Path) -> Iterator[Launcher]:
    """A launcher whose children do not outlive the test."""
    launcher = Launcher(folder)
    try:
        yield launcher
    finally:
        launcher.end()
