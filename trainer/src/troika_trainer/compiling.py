"""Whether the model is compiled: as the run says, or where a trial shows that it pays.

With `Auto` a run that is long enough is tried both ways on its longest examples. What was found is
noted beside the checkpoints: later attempts compute as the first one did.
"""

import json
import logging
from collections.abc import Callable, Sequence

import torch
from torch import nn

from .distributed import Group
from .integrity import write_durably
from .layers import layers_of
from .microbatch import Kept, Prober
from .strategy import Strategy
from .tasks.base import Objective

log = logging.getLogger(__name__)

WORTH_A_TRIAL = 1800.0
"""Seconds that the passes of a run take without: to compile takes one or several minutes."""
PAYS = 1.03
"""Compiled passes must be at least so much faster: two trials differ by a percent or two."""
TRIALS = 2


def pieces(objective: Objective, group: Group) -> list[nn.Module]:
    """What is compiled at a time: all of it on one rank, else layer by layer.

    A compiled piece yields its gradients when its backward pass is done: with one piece they could
    not travel while others are computed, and FSDP gathers weights between the layers.
    """
    layers = layers_of(objective.model) if group.size > 1 else []
    return layers or [objective]


def switch(modules: Sequence[nn.Module], *, on: bool) -> None:
    """Have modules run compiled, or as they are written."""
    for module in modules:
        if on:
            module.compile()
        else:
            module._compiled_call_impl = None  # noqa: SLF001 - torch has no way back


def choose(
    seconds: Callable[[], float | None], turn: Callable[[bool], None], *, passes: float
) -> bool:
    """Whether to compile.

    Args:
        seconds: Of one pass as it is now, on the slowest rank; None where memory ran out.
        turn: Switches compiling on and off.
        passes: How many the run has.
    """
    without = seconds()
    if without is None or passes * without < WORTH_A_TRIAL:
        return False
    turn(True)  # noqa: FBT003
    compiled = seconds()
    pays = compiled is not None and compiled * PAYS < without
    log.info(
        "tried torch.compile", extra={"without": without, "compiled": compiled, "chosen": pays}
    )
    if not pays:
        turn(False)  # noqa: FBT003
    return pays


def compile_where_it_pays(
    strategy: Strategy, prober: Prober, kept: Kept, *, micro: int, passes: float
) -> None:
    """Choose once in a run, all ranks together.

    Args:
        strategy: Holds the model, not compiled.
        prober: Tries passes.
        kept: Says where notes are, and what machine this is.
        micro: Sequences in a pass.
        passes: How many the run has.
    """
    # What cannot be compiled runs as it is written: nobody has asked for the attempt.
    torch._dynamo.config.suppress_errors = True  # noqa: SLF001
    group, parts = strategy.group, pieces(strategy.objective, strategy.group)
    file = kept.file.with_name("compile.json")

    def known() -> dict[str, bool]:
        try:
            return dict(json.loads(file.read_text()))
        except (FileNotFoundError, ValueError):
            return {}

    def seconds() -> float | None:
        trials = [prober.measure(micro) for _ in range(TRIALS)]
        return min((t.seconds for t in trials if t), default=None) if all(trials) else None

    def turn(on: bool) -> None:  # noqa: FBT001
        switch(parts, on=on)

    chosen = group.from_first(lambda: known().get(kept.machine))
    if chosen is None:
        chosen = choose(seconds, turn, passes=passes)
        note = json.dumps(known() | {kept.machine: chosen}, indent=1).encode()
        file.parent.mkdir(parents=True, exist_ok=True)
        group.from_first(lambda: write_durably(file, note))
    elif chosen:
        turn(True)  # noqa: FBT003
