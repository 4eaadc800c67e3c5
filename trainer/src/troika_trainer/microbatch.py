"""How many sequences one rank takes through the model at a time: found by trying, and kept.

`Auto` doubles the size on the longest examples of the training split until it is no faster or would
not fit. Whatever is asked for, a size is halved where memory runs out in training (`loop.py`). Both
are noted beside the checkpoints, so that no later attempt tries again.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from troika_api.v1alpha1.training import Sharding, Training

from .batch import Batch, Examples, Integers
from .distributed import Group
from .errors import OutOfMemoryError, ShrunkError, is_out_of_memory
from .integrity import write_durably
from .parallel import device_memory
from .strategy import Strategy

log = logging.getLogger(__name__)

HEADROOM = 0.9
"""Share of the memory that may be used: batches differ, and allocators leave gaps."""
PAYS = 1.05
"""A size twice as large must be at least so much faster; memory may be worth more elsewhere."""
LOOKED_AT_ONCE = 1_000_000

Arithmetic = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Trial:
    """Forward and backward pass of some size, on the rank that did worst."""

    seconds: float
    share: float
    """Of the device's memory at the peak, with what the optimizer will need. 0 on the CPU."""
    growth: float
    """The part of it that came with the pass and went with it: what grows with the size, and the
    copies of weights in another precision, which do not."""


def search(measure: Callable[[int], Trial | None], *, limit: int) -> int:
    """The size to use: the smallest one that no size twice as large beats and that fits.

    Args:
        measure: Tries a size; None where memory ran out.
        limit: Largest size of use.

    Raises:
        OutOfMemoryError: not even one sequence fits.
    """
    chosen, best, size, before = 0, 0.0, 1, 0.0
    while True:
        found = measure(size)
        if found is None or size < PAYS * best * found.seconds:
            break
        if chosen and found.share > HEADROOM:
            break  # one sequence may take what it needs
        # Each sequence costs what the last half of them has added, however much stays the same.
        each = 2 * (found.share - before) / size if chosen else found.growth / size
        chosen, best, before = size, size / found.seconds, found.share
        larger = min(2 * size, limit)
        if larger == size or found.share + (larger - size) * each > HEADROOM:
            break  # a size that would not fit is never tried: to fail may be costly
        size = larger
    if not chosen:
        raise OutOfMemoryError.at_one_sequence("in a trial of the longest example")
    return chosen


class Prober:
    """Tries sizes on this machine, all ranks together."""

    def __init__(
        self,
        strategy: Strategy,
        examples: Examples,
        arithmetic: Arithmetic,
        kept: "Kept",
        *,
        among: int,
    ) -> None:
        self._strategy, self._examples, self._arithmetic = strategy, examples, arithmetic
        self._kept = kept
        self._longest = longest(examples, among=among)

    def measure(self, size: int) -> Trial | None:
        """Forward and backward, exchange included; None where memory ran out on any rank."""
        group, device = self._strategy.group, self._strategy.group.device
        batch = self._examples.batch(self._taken(size), np.zeros(size, dtype=np.int64))
        before, left, seconds = _allocated(device), 0, 0.0
        for _ in range(2):  # the first pass finds kernels and fills the allocator's pools
            taken = self._pass(batch)
            left = _held(device) - before  # gradients, where they have no room of their own
            self._strategy.clear()
            if group.any(taken is None):
                return None
            seconds = taken or 0.0
        memory, peak = device_memory(device), _peak(device)
        share, growth = 0.0, 0.0
        if memory is not None:
            share, growth = (peak + self._to_come()) / memory, (peak - before - left) / memory
        worst = [
            max(of_ranks) for of_ranks in zip(*group.gather((seconds, share, growth)), strict=True)
        ]
        return Trial(*worst)

    def _pass(self, batch: Batch) -> float | None:
        """Seconds of one forward and backward pass on this rank; None where its memory ran out."""
        strategy = self._strategy
        started = time.perf_counter()
        try:
            with strategy.exchanging(gradients=True):
                with self._arithmetic():
                    loss, _ = strategy.objective(batch.to(strategy.group.device))
                loss.backward()
            loss.item()  # waits for the device
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if not strategy.survives_out_of_memory:
                raise self._kept.shrunk(batch.samples, "in a trial") from error
            fits = False
        else:
            fits = True
        strategy.settle()
        return time.perf_counter() - started if fits else None

    def _taken(self, size: int) -> Integers:
        """The longest examples; some twice where the split has fewer than that."""
        return np.resize(self._longest[::-1], size)

    def _to_come(self) -> int:
        """Bytes of AdamW's two moments, which come with the first step."""
        weights = (weight for weight in self._strategy.objective.parameters())
        local = (
            getattr(weight, "_local_tensor", weight) for weight in weights if weight.requires_grad
        )
        return sum(2 * weight.nbytes for weight in local)


def longest(examples: Examples, *, among: int, count: int = 4096) -> Integers:
    """Numbers of the longest examples, the longest last. Shape [at most `count`].

    Args:
        examples: Of the training split; of a stream there is no end.
        among: How many of them, from the first on, are looked at.
        count: How many are wanted.
    """
    best = np.empty(0, dtype=np.int64)
    for start in range(0, among, LOOKED_AT_ONCE):
        some = np.arange(start, min(start + LOOKED_AT_ONCE, among))
        both = np.concatenate([best, some])
        best = both[np.argsort(examples.lengths(both), kind="stable")[-count:]]
    return best


def _allocated(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _held(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


@dataclass(frozen=True)
class Kept:
    """The size that fits, by machine, in a file beside the checkpoints."""

    file: Path
    machine: str
    """Device and sharding: what decides how much fits."""
    divisor: int
    """By which the operator divides every size (`place.py`); sizes are kept without it."""

    @classmethod
    def of(cls, directory: Path, group: Group, training: Training) -> "Kept":
        """For the ranks of this attempt."""
        device = group.device
        machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        if training.sharding is Sharding.FSDP:
            machine += f", {training.sharding} over {group.size}"
        elif training.sharding is Sharding.HYBRID:
            machine += f", {training.sharding} over {group.place.local_world_size}"
        return cls(directory / "micro-batch.json", machine, group.place.micro_batch_divisor)

    def read(self) -> int | None:
        """The size, or None where none was found yet."""
        size = self._all().get(self.machine)
        return max(1, size // self.divisor) if size else None

    def write(self, size: int) -> None:
        """Note a size, on one rank or on several that agree."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        sizes = self._all() | {self.machine: size * self.divisor}
        with contextlib.suppress(FileNotFoundError):  # another rank has just written the same
            write_durably(self.file, json.dumps(sizes, indent=1).encode())

    def shrunk(self, size: int, where: str) -> OutOfMemoryError:
        """Note half of a size that did not fit; what to raise where the ranks cannot go on."""
        if size == 1:
            return OutOfMemoryError.at_one_sequence(where)
        self.write(size // 2)
        return ShrunkError(
            f"memory ran out {where}, with {size} sequences at a time on each rank; "
            f"the ranks start again with {size // 2}",
            f"set training.microBatchSize to {size // 2} or less, or ask for more memory",
        )

    def _all(self) -> dict[str, int]:
        try:
            found: dict[str, int] = json.loads(self.file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            log.warning("%s cannot be read: sizes are found anew", self.file)
            return {}
        return found
