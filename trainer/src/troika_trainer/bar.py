"""The progress bar of a run in a terminal. Where there is none, neither is this."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
)

from troika_api.contract import TrainerStatus


class Bar:
    """Step, loss, tokens/s and the time that is left, on the last line of a terminal.

    Log lines go through the same console, which prints them above.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            refresh_per_second=4,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: TaskID | None = None

    def start(self, *, step: int, total: int | None) -> None:
        """Show it."""
        self._task = self._progress.add_task("step", completed=step, total=total, numbers="")
        self._progress.start()

    def step(self, status: TrainerStatus) -> None:
        """A step was made."""
        if self._task is not None:
            self._progress.update(self._task, completed=status.step, numbers=numbers(status))

    def stop(self) -> None:
        """Leave it as it is, on a line of its own; the terminal is as it was."""
        self._progress.stop()


def numbers(status: TrainerStatus) -> str:
    """`loss 2.3451  11.8k tokens/s  1:02:03 left`."""
    parts = []
    if status.loss is not None:
        parts.append(f"loss {status.loss:.4f}")
    if status.tokens_per_second is not None:
        rate = status.tokens_per_second
        parts.append(f"{rate / 1000:.1f}k tokens/s" if rate >= 1000 else f"{rate:.0f} tokens/s")
    if status.eta_seconds is not None:
        minutes, seconds = divmod(round(status.eta_seconds), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        parts.append(f"{clock} left")
    return "  ".join(parts)
