"""A copy of weights and optimizer state in memory that the writing process shares.

The plan is torch.distributed.checkpoint's: it decides which rank writes which piece, and that holds
for every save of a run, so it is made once. After it a save costs one copy of the memory, most of
it made beside the next forward and backward pass, which only read what is copied: from a GPU on a
stream of its own, into memory that is pinned.
The memory is a memfd and not a file in /dev/shm, of which a pod has 64 MiB.
"""

import io
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.cuda._pin_memory_utils import pin_memory
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from .distributed import Group
from .layout import Layout, Slot, Taken

log = logging.getLogger(__name__)

State = dict[str, Any]
ALIGNMENT = 64
"""Bytes; every tensor begins at a multiple, so that copies run at full speed."""


class Staging:
    """What one rank copies in every save, and where to."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.taken: Taken
        """What was copied last."""
        self._pinned = False

    def map(self, descriptor: int) -> None:
        """Use the memory behind a file descriptor, which is made as large as it must be."""
        os.ftruncate(descriptor, self.layout.size)
        self.taken = Taken.mapped(self.layout, descriptor)

    @classmethod
    def plan(cls, state: State, group: Group) -> "Staging":
        """Agree with the other ranks on who writes what. All call this together."""
        planner, writer = DefaultSavePlanner(), FileSystemWriter(Path())
        planner.set_up_planner(state, is_coordinator=group.is_first)
        plans = group.gather(planner.create_local_plan())
        plans, metadata = group.from_first(lambda: planner.create_global_plan(plans))
        plan = planner.finish_plan(writer.prepare_global_plan(plans)[group.place.rank])
        slots: dict[MetadataIndex, Slot] = {}
        size = 1
        for item in plan.items:
            if item.type is not WriteItemType.BYTE_IO:
                tensor = _tensor(planner, item)
                offset = -(-size // ALIGNMENT) * ALIGNMENT
                slots[item.index] = Slot(offset, tensor.dtype, tuple(tensor.shape))
                size = offset + tensor.nbytes
        return cls(Layout(plan, metadata, slots, size))

    def take(self, state: State) -> Callable[[], None]:
        """Copy this rank's part, in two halves.

        Now: numbers, and the buffers that a forward pass changes. By calling what is returned:
        weights and the optimizer's tensors, which stay as they are until its next step.
        """
        planner = DefaultSavePlanner()
        planner.set_up_planner(state, is_coordinator=False)
        trained = state["optimizer"]["state"]
        steady: list[tuple[torch.Tensor, torch.Tensor]] = []
        for item in self.layout.plan.items:
            if item.type is WriteItemType.BYTE_IO:
                data = planner.resolve_data(item)
                assert isinstance(data, io.BytesIO)
                self.taken.small[item.index] = data.getvalue()
                continue
            target, source = self.taken.tensors[item.index], _tensor(planner, item)
            part, _, name = item.index.fqn.partition(".")
            if part == "optimizer" or name in trained:
                steady.append((target, source))
            else:
                target.copy_(source)

        on_gpu = next((source.device for _, source in steady if source.is_cuda), None)
        written = None if on_gpu is None else torch.cuda.current_stream(on_gpu).record_event()

        @torch.no_grad()
        def rest() -> None:
            if on_gpu is not None and not self._pinned:
                self._pinned = True
                self._pin()
            with _beside(on_gpu, written):
                for target, source in steady:
                    target.copy_(source, non_blocking=True)

        return rest

    def _pin(self) -> None:
        """Have the driver copy at the speed of the bus, and leave the host alone meanwhile."""
        begin = next(
            tensor.data_ptr() - self.layout.slots[index].offset
            for index, tensor in self.taken.tensors.items()
            if tensor.numel()
        )
        try:
            pin_memory(begin, self.layout.size)
        except RuntimeError as error:  # there may be a limit; copies are then slower, no more
            log.warning("the memory of the checkpoint is not pinned: %s", error)


@contextmanager
def _beside(device: torch.device | None, written: torch.cuda.Event | None) -> Iterator[None]:
    """A stream of its own, for what follows an event; in the end all that was asked of it is done.

    Args:
        device: A GPU, or None: then there is no stream.
        written: When what is read there stands, in the stream that computes.
    """
    if device is None or written is None:
        yield
        return
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_event(written)
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()


def _tensor(planner: DefaultSavePlanner, item: WriteItem) -> torch.Tensor:
    tensor = planner.resolve_data(item)
    assert isinstance(tensor, torch.Tensor)
    return tensor
