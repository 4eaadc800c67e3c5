"""The curves: few points however long the run, and the same ones after a resume."""

from pathlib import Path

import pytest

from troika_trainer.curve import MOST_POINTS, Meter, Point
from troika_trainer.manifest import Manifest, Progress
from troika_trainer.telemetry import StepReport


def report(step: int) -> StepReport:
    return StepReport(
        step=step,
        epoch=0.0,
        loss=float(step),
        learning_rate=1e-3 * step,
        gradient_norm=2.0,
        tokens=100,
        samples=1,
        seconds=0.5,
        data_seconds=0.0,
        flops=0.0,
    )


def points(meter: Meter, first: int, last: int) -> list[Point]:
    made = (meter.add(report(step)) for step in range(first, last + 1))
    return [point for point in made if point]


@pytest.mark.parametrize("total", [1, 12, 1000, 1001, 12_345])
def test_a_run_has_few_points_and_its_first_and_last_step_among_them(total: int) -> None:
    found = [point.step for point in points(Meter(total), 1, total)]
    assert found[0] == 1
    assert found[-1] == total
    assert found == sorted(set(found))
    assert min(total, MOST_POINTS // 2) <= len(found) <= MOST_POINTS + 1


def test_a_point_is_the_mean_of_the_steps_since_the_last() -> None:
    first, second, *_ = points(Meter(4000), 1, 8)
    assert first == Point(1, 1.0, 1e-3, 2.0, 200.0)
    assert second == Point(4, 3.0, 4e-3, 2.0, 200.0)


def test_a_resumed_run_has_points_at_the_same_steps() -> None:
    whole = [point.step for point in points(Meter(5000), 1, 5000)]
    before, after = points(Meter(5000), 1, 2342), points(Meter(5000), 2343, 5000)
    assert [point.step for point in (*before, *after)] == whole


def test_progress_comes_back_from_its_manifest(tmp_path: Path) -> None:
    progress = Progress(step=3, history=[{"step": 3.0, "loss": 1.0}], curve=[Point(*range(5))])
    Manifest(progress, attempt=1, world_size=2, time=0.5, versions={}, term="", lineage={}).write(
        tmp_path
    )
    read = Manifest.read(tmp_path)
    assert read is not None
    assert read.progress == progress
    assert isinstance(read.progress.curve[0], Point)


def test_a_copy_does_not_grow_with_the_original() -> None:
    progress = Progress(curve=[Point(*range(5))])
    copy = progress.copy()
    progress.curve.append(Point(*range(5)))
    progress.note({"loss": 1.0}, None)
    assert (len(copy.curve), copy.history) == (1, [])
