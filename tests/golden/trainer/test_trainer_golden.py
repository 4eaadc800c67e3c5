"""The loss of every step is what it was: a change that is not meant to move numbers does not."""

from pathlib import Path

import pytest

from golden.trainer.curves import CURVES, losses, read

TOLERANCE = 2e-3
"""Nats. Processors differ in the last bits of a product, and thirty steps make more of it."""


@pytest.mark.parametrize("name", CURVES)
def test_the_loss_curve_is_the_one_that_is_kept(name: str, tmp_path: Path) -> None:
    assert losses(name, tmp_path) == pytest.approx(read(name), abs=TOLERANCE)
