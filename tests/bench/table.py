"""Rows of a benchmark: what was measured, ours beside theirs, and whether the goal holds."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

DIRECTORY = Path("build/bench")


@dataclass(frozen=True)
class Row:
    """One comparison. The unit stands in the metric's name."""

    work: str
    metric: str
    ours: float
    theirs: float | None
    goal: str
    """Such as `<= 0.1` or `>= 1.5`, of the ratio; empty where there is none."""
    rounds: Sequence[float] = ()
    """The ratio in each round of turns, where there were several."""

    @property
    def ratio(self) -> float | None:
        """Ours over theirs: the median of the rounds, so that one bad moment does not count."""
        if self.rounds:
            return statistics.median(self.rounds)
        return self.ours / self.theirs if self.theirs else None

    @property
    def spread(self) -> str:
        """The lowest and the highest ratio."""
        return f"{min(self.rounds):.3f}-{max(self.rounds):.3f}" if self.rounds else ""

    @property
    def holds(self) -> bool | None:
        """Whether the ratio meets the goal."""
        if not self.goal or self.ratio is None:
            return None
        sign, number = self.goal.split()
        return self.ratio <= float(number) if sign == "<=" else self.ratio >= float(number)


def line(row: Row) -> str:
    """A row as it is printed."""
    ratio = "" if row.ratio is None else f"{row.ratio:8.3f}"
    theirs = "" if row.theirs is None else f"{row.theirs:10.4g}"
    verdict = {True: "holds", False: "MISSED", None: ""}[row.holds]
    return (
        f"{row.work:44} {row.metric:18} {row.ours:10.4g} {theirs:>10} {ratio:>8} "
        f"{row.spread:12} {row.goal:8} {verdict}"
    )


def publish(name: str, rows: Sequence[Row]) -> bool:
    """Print the table and write `build/bench/<name>.json`; False where a goal is missed.

    Rows of an earlier run that were not measured now stay in the file.
    """
    for row in rows:
        print(line(row))
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    file = DIRECTORY / f"{name}.json"
    known = json.loads(file.read_text()) if file.exists() else []
    records = {(record["work"], record["metric"]): record for record in known}
    for row in rows:
        found = {**asdict(row), "ratio": row.ratio, "holds": row.holds}
        records[row.work, row.metric] = found
    file.write_text(json.dumps(list(records.values()), indent=1) + "\n")
    return all(row.holds is not False for row in rows)
