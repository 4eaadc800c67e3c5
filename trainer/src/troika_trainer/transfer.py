"""Batches on their way to a GPU while it computes: pinned and copied beside the step, not in it.

Two orders hold. A step starts to read a batch after it has arrived: the stream that computes waits
for an event, the host for nothing. And the memory of a batch is not given to others before the step
has read it: the allocator is told which stream does (`record_stream`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .batch import Batch
from .errors import is_out_of_memory

AT_MOST = 256 << 20
"""Bytes of a step that lie on the device before it begins; of text a step has far fewer. What is
more stays in pinned memory, and is copied when it is computed."""


@dataclass(frozen=True)
class Sent:
    """Batches of which the first are on their way to the device, and the rest in pinned memory."""

    batches: list[Batch]
    arrived: torch.cuda.Event | None = None
    """Set on a GPU: when those that were sent are there."""


class Transfer:
    """The way from the host's memory to a device. On the CPU there is none to go."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def send(self, batches: list[Batch]) -> Sent:
        """Begin to copy; called beside the step, in another thread."""
        if self._stream is None:
            return Sent(batches)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            pinned = [batch.mapped(torch.Tensor.pin_memory) for batch in batches]
            first = within(pinned, room=AT_MOST)
            try:
                sent = [batch.to(self._device) for batch in pinned[:first]]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                sent, first = [], 0  # the step itself knows what to do about that
            arrived = self._stream.record_event()
        return Sent([*sent, *pinned[first:]], arrived)

    def receive(self, sent: Sent) -> list[Batch]:
        """The batches, for what is computed from now on in this thread."""
        if sent.arrived is None:
            return sent.batches
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(sent.arrived)
        for batch in sent.batches:
            batch.mapped(_read_by(computing))
        return sent.batches


def within(batches: list[Batch], *, room: int) -> int:
    """How many batches from the first one on have no more bytes than `room` together."""
    taken = 0
    for number, batch in enumerate(batches):
        taken += batch.nbytes
        if taken > room:
            return number
    return len(batches)


def _read_by(stream: torch.cuda.Stream) -> Callable[[torch.Tensor], torch.Tensor]:
    def mark(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_cuda:
            tensor.record_stream(stream)
        return tensor

    return mark
