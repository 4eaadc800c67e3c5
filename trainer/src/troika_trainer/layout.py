"""What a rank writes in every save, and where it lies in the memory shared with its writer."""

import io
import mmap
from dataclasses import dataclass

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType
from typing_extensions import override


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in the shared memory."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def view(self, memory: mmap.mmap) -> torch.Tensor:
        """The tensor in this slot; writing to it writes to the memory."""
        count = torch.Size(self.shape).numel()
        if not count:
            return torch.empty(self.shape, dtype=self.dtype)
        flat = torch.frombuffer(memory, dtype=self.dtype, count=count, offset=self.offset)
        return flat.view(self.shape)


@dataclass(frozen=True)
class Layout:
    """What one rank writes in every save, and where it finds it."""

    plan: SavePlan
    metadata: Metadata
    slots: dict[MetadataIndex, Slot]
    size: int
    """Bytes of the shared memory."""


@dataclass
class Taken(DefaultSavePlanner):
    """A staged state, as torch.distributed.checkpoint's writer asks for its pieces."""

    tensors: dict[MetadataIndex, torch.Tensor]
    small: dict[MetadataIndex, bytes]
    """What is not a tensor: a few numbers, pickled."""

    @override
    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        if write_item.type is WriteItemType.BYTE_IO:
            return io.BytesIO(self.small[write_item.index])
        return self.tensors[write_item.index]

    @classmethod
    def mapped(cls, layout: Layout, descriptor: int) -> "Taken":
        """Views of the memory behind a file descriptor, in whichever process."""
        memory = mmap.mmap(descriptor, layout.size)
        return cls({index: slot.view(memory) for index, slot in layout.slots.items()}, {})
