"""The live table: one row per job, the same fields that `kubectl get ptj,ftj` shows."""

import sys
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from .shell import DemoError
from .target import Target

COLUMNS = ("KIND", "NAME", "PHASE", "STEP", "PROGRESS", "LOSS", "VAL LOSS", "TOKENS/S", "ETA")
ENDED = {"Complete", "Failed"}
POLL_SECONDS = 2.0
"""Between two looks at the API server."""


def row(job: dict[str, Any]) -> tuple[str, ...]:
    """One job's cells; an empty cell is something not known yet."""
    status = job.get("status", {})
    progress, throughput = status.get("progress", {}), status.get("throughput", {})
    step, total = progress.get("step"), progress.get("totalSteps")
    cells = (
        job["kind"],
        job["metadata"]["name"],
        status.get("phase"),
        None if step is None else f"{step}/{total}" if total else step,
        progress.get("percent"),
        progress.get("loss"),
        progress.get("validationLoss"),
        throughput.get("tokensPerSecond"),
        progress.get("eta"),
    )
    return tuple("" if cell is None else str(cell) for cell in cells)


def ended(job: dict[str, Any]) -> str | None:
    """`Complete` or `Failed` once the job is."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] in ENDED and condition["status"] == "True":
            return str(condition["type"])
    return None


def follow(target: Target, namespace: str, *, timeout: float) -> list[dict[str, Any]]:
    """Show the jobs of a namespace until all have ended; return them.

    Raises:
        DemoError: a job failed, or the time is up.
    """
    deadline = time.monotonic() + timeout
    console = Console()
    show = _Redrawn(console) if console.is_terminal else _Printed()
    with show:
        while True:
            jobs: list[dict[str, Any]] = target.get("-n", namespace, "ptj,ftj")["items"]
            show.update(jobs)
            for job in jobs:
                if ended(job) == "Failed":
                    raise DemoError(
                        f"{job['kind']} {job['metadata']['name']} failed: "
                        f"{job['status'].get('reason', 'no reason given')}"
                    )
            if jobs and all(ended(job) for job in jobs):
                return jobs
            if time.monotonic() > deadline:
                raise DemoError(f"not done after {timeout:.0f} s: {[row(job) for job in jobs]}")
            time.sleep(POLL_SECONDS)  # the poll of a person's display, bounded by the deadline


class _Redrawn:
    """On a terminal: one table, drawn again in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4)

    def __enter__(self) -> None:
        self._live.__enter__()

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def update(self, jobs: Iterable[dict[str, Any]]) -> None:
        table = Table(*COLUMNS)
        for job in jobs:
            table.add_row(*row(job))
        self._live.update(table)


class _Printed:
    """In a log: a line whenever a job's row has changed."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, ...]] = {}
        self._widths = (12, 14, 11, 10, 9, 8, 9, 9, 8)

    def __enter__(self) -> None:
        self._line(COLUMNS)

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()

    def update(self, jobs: Iterable[dict[str, Any]]) -> None:
        for job in jobs:
            cells = row(job)
            if self._last.get(job["kind"]) != cells:
                self._last[job["kind"]] = cells
                self._line(cells)

    def _line(self, cells: Iterable[str]) -> None:
        padded = (cell.ljust(width) for cell, width in zip(cells, self._widths, strict=True))
        print("    " + " ".join(padded).rstrip(), flush=True)
