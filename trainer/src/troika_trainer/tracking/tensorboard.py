"""TensorBoard: event files in a directory, one more for every attempt."""

from pathlib import Path
from typing import TYPE_CHECKING

from .base import Entry, Outcome

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """Writes scalars. A later attempt's file says from which step on the older ones are void."""

    name = "TensorBoard"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: SummaryWriter | None = None

    def open(self, step: int) -> None:
        """Begin a file that hides what older ones hold from this step on."""
        # Loads a good part of TensorBoard, which takes a second: not while the trainer starts.
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415

        self._writer = SummaryWriter(str(self._directory), purge_step=step)

    def log(self, entries: list[Entry]) -> None:
        """Write, and flush: who is killed has lost seconds, not minutes."""
        assert self._writer is not None
        for entry in entries:
            for name, value in entry.numbers.items():
                self._writer.add_scalar(name, value, entry.step, walltime=entry.time)
        self._writer.flush()

    def close(self, outcome: Outcome) -> None:  # noqa: ARG002 - files know no outcome
        """Close the file."""
        assert self._writer is not None
        self._writer.close()
