"""The steps of a run on one rank, cut into micro-batches: of what size, and compiled or not.

Both are chosen before the first step; the size is halved where memory runs out in a later one.
"""

import logging
import math

import torch

from troika_api.v1alpha1.training import AUTO, Compile, Training

from . import compiling, microbatch
from .batch import Batch, Examples
from .batches import Ahead, Batches, Order
from .errors import OutOfMemoryError
from .microbatch import Arithmetic, Kept
from .strategy import Strategy
from .transfer import Transfer

log = logging.getLogger(__name__)


class Cutting:
    """Where the micro-batches of every step come from."""

    micro: int
    """Sequences in a forward pass, of the longest there are."""

    def __init__(  # noqa: PLR0913
        self,
        training: Training,
        train: Examples,
        order: Order,
        *,
        strategy: Strategy,
        arithmetic: Arithmetic,
        kept: Kept,
        micro: int,
        known: bool,
        longest: int,
        steps: int,
    ) -> None:
        """Choose the size, and whether the model is compiled; all ranks together.

        Args:
            training: What the run asks for.
            train: What it learns from.
            order: Which examples make a step.
            strategy: Holds the model, not compiled.
            arithmetic: Around every forward pass.
            kept: What earlier attempts have found.
            micro: The size that is asked for or was kept; the most, where it is to be found.
            known: Whether an earlier attempt has found it.
            longest: Tokens of the longest example.
            steps: Of the run.
        """
        self._train, self._order, self._longest = train, order, longest
        self._strategy, self._arithmetic, self.kept = strategy, arithmetic, kept
        self._transfer = Transfer(strategy.group.device)
        objective = strategy.objective
        self._packs = objective.task.packs
        if training.compile is Compile.ALWAYS:
            compiling.switch(compiling.pieces(objective, strategy.group), on=True)
        if training.micro_batch_size == AUTO and not known:
            micro = self._size_that_pays(limit=micro)
        self._cut(micro)
        if training.compile is Compile.AUTO:
            share = training.global_batch_size / strategy.group.size
            self._compile_where_it_pays(passes=steps * math.ceil(share / micro))

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of a step on this rank."""
        return self._batches.step(step)

    def halve(self, step: int) -> None:
        """Memory ran out on some rank: half as many sequences at a time, on all, from now on.

        Raises:
            OutOfMemoryError: it was one already.
        """
        group = self._strategy.group
        self._strategy.clear()
        if self.micro == 1:
            raise OutOfMemoryError.at_one_sequence(f"in step {step}")
        self._cut(self.micro // 2)
        if group.device.type == "cuda":
            torch.cuda.empty_cache()  # pieces of the old sizes would be in the way
        group.from_first(lambda: self.kept.write(self.micro))
        log.warning(
            "memory ran out: smaller micro-batches", extra={"step": step, "sequences": self.micro}
        )

    def _size_that_pays(self, *, limit: int) -> int:
        """Try sizes on the longest examples, and keep the best for all attempts to come."""
        with self._strategy.averages.untouched():
            found = microbatch.search(self._prober().measure, limit=limit)
        log.info("micro-batch size found", extra={"sequences": found, "limit": limit})
        self._strategy.group.from_first(lambda: self.kept.write(found))
        return found

    def _compile_where_it_pays(self, *, passes: int) -> None:
        """Try it on the longest examples, unless an earlier attempt has."""
        with self._strategy.averages.untouched():
            compiling.compile_where_it_pays(
                self._strategy, self._prober(), self.kept, micro=self.micro, passes=passes
            )

    def _prober(self) -> microbatch.Prober:
        return microbatch.Prober(
            self._strategy, self._train, self._arithmetic, self.kept, among=self._order.size
        )

    def _cut(self, micro: int) -> None:
        """Make the steps from now on of micro-batches of this size; what is in a step stays."""
        self.micro = micro
        batches = Batches(
            self._train,
            self._order,
            place=self._strategy.group.place,
            limit=micro * self._longest,
            room=self._longest if self._packs else None,
        )
        self._batches = Ahead(batches, self._transfer)
