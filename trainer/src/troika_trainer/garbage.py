"""Python's garbage collector, when the loop has time for it.

Left alone it looks through every object of torch and transformers again and again, in the middle
of a step, and on each rank at another moment, so that all wait for each.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator

STEPS_BETWEEN = 100
"""Cycles among tensors are rare: memory that waits for so many steps is little."""


@contextlib.contextmanager
def collected_on_schedule() -> Iterator[Callable[[int], None]]:
    """What exists now is left alone; what comes is collected when the given function is called.

    The function takes the step; it collects at the same steps on every rank.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield _collect
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def _collect(step: int) -> None:
    if step % STEPS_BETWEEN == 0:
        gc.collect()
