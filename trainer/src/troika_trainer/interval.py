"""How often to save: as the run says, or as often as pays.

`Auto` follows Young and Daly: with a cost C of each checkpoint and failures M apart on average, the
time lost to both is least at sqrt(2 C M). C is measured (the time for which the loop stood still,
and the time to write, which takes a core and ends what a failure can undo); M comes from the
operator, who knows how often this job's attempts have failed.
"""

import math
from collections.abc import Mapping

from troika_api import contract
from troika_api.v1alpha1.base import duration_seconds
from troika_api.v1alpha1.training import AUTO, STEPS

SHORTEST, LONGEST = 60.0, 3600.0
"""Seconds. Below, saving is all there is; above, nobody would believe that their work is safe."""


class Interval:
    """Seconds between two checkpoints; infinite where steps decide."""

    def __init__(self, interval: str, *, failure_every: float) -> None:
        """Begin.

        Args:
            interval: As the run has it.
            failure_every: Mean seconds between failures, for `Auto`.
        """
        self._failure_every = failure_every if interval == AUTO else None
        if interval == AUTO:
            self.seconds = SHORTEST  # what a checkpoint costs is known when there is one
        elif interval.endswith(STEPS):
            self.seconds = math.inf
        else:
            self.seconds = duration_seconds(interval)

    @classmethod
    def of(cls, interval: str, environ: Mapping[str, str]) -> "Interval":
        """With the failure rate that the operator passes, or else that of one device."""
        given = environ.get(contract.ENV_FAILURE_EVERY_SECONDS)
        return cls(interval, failure_every=float(given or contract.PRIOR_FAILURE_SECONDS))

    def learn(self, cost: float) -> None:
        """A checkpoint has cost so many seconds."""
        if self._failure_every is not None:
            best = math.sqrt(2.0 * cost * self._failure_every)
            self.seconds = min(max(best, SHORTEST), LONGEST)
