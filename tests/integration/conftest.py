"""What several files of integration tests start from."""

from collections.abc import Iterator

import pytest

from support.nursery import Nursery, nursery


@pytest.fixture(scope="module")
def forked() -> Iterator[Nursery]:
    """Processes that have loaded torch already, from which the trainers of a file are forked."""
    with nursery() as made:
        yield made
