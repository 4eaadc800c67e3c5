"""Where the lines of a chart run: pure geometry, drawn by a template."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Series = Sequence[tuple[float, float]]
"""Points (x, y), x rising."""

WIDTH, HEIGHT = 560.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 12.0, 12.0, 28.0
MANY = 40
"""Points from which on they are a line, and no dots on it."""


@dataclass(frozen=True)
class Tick:
    """A number on an axis."""

    at: float
    """Place in the drawing."""
    label: str


@dataclass(frozen=True)
class Line:
    """One series in the drawing."""

    name: str
    path: str
    """Points as SVG has them: `x,y x,y`."""
    faint: str
    """The same before it was smoothed; empty where it was not."""
    dots: Sequence[tuple[float, float]]
    """Single points, where there are few."""


@dataclass(frozen=True)
class Chart:
    """A drawing of `WIDTH` by `HEIGHT`."""

    title: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    mark: float | None
    """Place of a step that is pointed at."""


def chart(
    title: str,
    series: Mapping[str, Series],
    *,
    mark: float | None = None,
    zero: bool = False,
    noisy: bool = False,
) -> Chart | None:
    """Lay out some series over the same axes; None where there is nothing to draw.

    Args:
        title: What is drawn.
        series: By name.
        mark: x of a point in time that is pointed at.
        zero: Whether the y axis begins there.
        noisy: Whether many points are noise that hides the trend, which is then drawn over it.
    """
    finite = {
        name: [point for point in points if all(map(math.isfinite, point))]
        for name, points in series.items()
    }
    series = {name: points for name, points in finite.items() if points}
    points = [point for part in series.values() for point in part]
    if not points:
        return None
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_ticks = ticks(min(xs), max(xs))
    y_ticks = ticks(0.0 if zero else min(ys), max(ys))
    # Steps end where they end; heights end at a tick, so that no line runs out of its grid.
    across = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    up = _Axis(min(*ys, y_ticks[0]), max(*ys, y_ticks[-1]), HEIGHT - BOTTOM, TOP)
    return Chart(
        title=title,
        lines=[_line(name, part, across, up, noisy=noisy) for name, part in series.items()],
        x_ticks=[Tick(across(x), compact(x)) for x in x_ticks if min(xs) <= x <= max(xs)],
        y_ticks=[Tick(up(y), compact(y)) for y in y_ticks],
        mark=across(mark) if mark is not None and min(xs) <= mark <= max(xs) else None,
    )


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def _line(name: str, points: Series, across: _Axis, up: _Axis, *, noisy: bool) -> Line:
    many = len(points) >= MANY
    smooth = many and noisy
    heights = smoothed([y for _, y in points]) if smooth else [y for _, y in points]
    places = [(across(x), up(y)) for (x, _), y in zip(points, heights, strict=True)]
    raw = [(across(x), up(y)) for x, y in points]
    return Line(
        name=name,
        path=_path(places),
        faint=_path(raw) if smooth else "",
        dots=() if many else places,
    )


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in places)


def smoothed(values: Sequence[float]) -> list[float]:
    """A mean over a fortieth of all values to either side; fewer at the ends."""
    reach = max(1, len(values) // 40)
    parts = [
        values[
            max(0, at - min(reach, at, len(values) - 1 - at)) : at
            + 1
            + min(reach, at, len(values) - 1 - at)
        ]
        for at in range(len(values))
    ]
    return [sum(part) / len(part) for part in parts]


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers from below `low` to above `high`, a step of 1, 2 or 5 apart."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def compact(value: float) -> str:
    """A number in few characters: 12k, 3.5M, 0.25, 2e-05."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scale = 1e3 if unit == "k" else size
            return f"{value / scale:.4g}{unit}"
    return f"{value:.4g}"
