"""Fixtures of the chart's tests."""

import pytest

from chart.helm import Helm
from cluster import binaries


@pytest.fixture(scope="session")
def helm() -> Helm:
    """The helm that the embedded cluster pins, without a cluster."""
    return Helm(binaries.build(binaries.HELM)["helm"])
