"""What several files of integration tests start from."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest

from support.nursery import Nursery, nursery

if TYPE_CHECKING:
    from support.stage import Stage


@pytest.fixture(scope="module")
def forked() -> Iterator[Nursery]:
    """Processes that have loaded torch already, from which the trainers of a file are forked."""
    with nursery() as made:
        yield made


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster on which no operator is at work but those that the tests start."""
    from support.stage import alone  # the operator is nothing to the tests of the trainer

    with alone():
        yield


@pytest.fixture
async def there(cluster: None, request: pytest.FixtureRequest) -> "AsyncIterator[Stage]":
    """A namespace and a node for one test, called after its file."""
    from support.stage import stage

    async with stage(request.path.stem.rpartition("_")[2]) as found:
        yield found
