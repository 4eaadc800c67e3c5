"""The process group: the device of this rank, and the few things that ranks say to each other."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from .errors import CommunicationError
from .place import ENV_ROUND, Place, threads_for

T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(minutes=15)
"""Longest wait for the slowest rank in one collective; the operator's hang policy is faster."""

MAKING_TIMEOUT = 24 * 3600.0
"""Seconds that ranks wait for one of them to tokenize: a large corpus takes hours, once."""


class Group:
    """All ranks of the run, and what this one knows of them."""

    def __init__(self, place: Place, device: torch.device) -> None:
        self.place = place
        self.device = device
        self._made = 0

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.place.world_size

    @property
    def is_first(self) -> bool:
        """True on the one rank that writes for all."""
        return self.place.is_first

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all ranks, in place, on whatever device the tensor is. Same shape."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:  # noqa: FBT001 - it is the value that is asked about
        """True where any rank says so."""
        return bool(self.sum(torch.tensor([float(flag)])).item())

    def gather(self, value: T) -> list[T]:
        """The picklable values of all ranks, in the order of ranks, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """Do something on the first rank and give every rank its result, or its exception."""
        if self.size == 1:
            return make()
        outcome: list[Any] = [None, None]
        if self.is_first:
            try:
                outcome[0] = make()
            except Exception as error:  # noqa: BLE001 - every rank must learn of it
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def all_or_none(self, make: Callable[[], T], failure: type[Exception]) -> T:
        """Do something on every rank and give each its own result.

        Args:
            make: What to do.
            failure: Where `make` raises this on some ranks, all raise what the first of them met.
        """
        made: list[T] = []
        met: Exception | None = None
        try:
            made.append(make())
        except failure as error:
            met = error
        if self.any(met is not None):
            raise next(error for error in self.gather(met) if error is not None)
        return made[0]

    def wait_for_first(self, work: Callable[[], object]) -> None:
        """Let the first rank work as long as it takes; the others wait without a collective.

        Raises:
            CommunicationError: the first rank did not finish in `MAKING_TIMEOUT`.
        """
        self._made += 1
        key = f"troika/made/{self._made}"
        if self.is_first:
            work()
        if self.size == 1:
            return
        store = dist.distributed_c10d._get_default_store()  # noqa: SLF001 - the only way to it
        if self.is_first:
            store.set(key, "done")
        deadline = time.monotonic() + MAKING_TIMEOUT
        while not store.check([key]):
            if time.monotonic() > deadline:
                raise CommunicationError("rank 0 did not finish preparing the data in a day")
            time.sleep(0.1)


@contextlib.contextmanager
def process_group(place: Place) -> Iterator[Group]:
    """Join the other ranks; leave in order at the end, and only where nothing failed.

    A rank alone needs no group. gloo serves the CPU, NCCL the GPUs.
    """
    device = _device(place)
    if place.world_size == 1:
        group = Group(place, device)
        _share_cores(group)
        yield group
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    device_id = device if device.type == "cuda" else None
    store, _, _ = next(rendezvous("env://", timeout=COLLECTIVE_TIMEOUT))
    dist.init_process_group(
        backend,
        # Ranks find each other's addresses in a store that outlives a restart in place: without
        # a prefix of its own a rank may read where its peer listened before.
        store=PrefixStore(os.environ.get(ENV_ROUND) or f"restart-{place.restart}", store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device_id,
    )
    group = Group(place, device)
    _share_cores(group)
    yield group
    dist.barrier()
    dist.destroy_process_group()


def _share_cores(group: Group) -> None:
    """Divide the cores among the ranks of a machine, unless OMP_NUM_THREADS has decided.

    Pods on one node have different names but the same kernel, and a kernel knows when it started.
    """
    kernel = Path("/proc/sys/kernel/random/boot_id").read_text()
    sharing = group.gather(kernel).count(kernel)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads_for(group.place, sharing=sharing))


def _device(place: Place) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device
