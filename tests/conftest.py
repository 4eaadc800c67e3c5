"""The order of the whole run: fast and independent first, what kills the cluster last."""

import os

import pytest

FOLDERS = ("unit", "golden", "chart", "integration", "e2e", "observability")


def pytest_configure() -> None:
    """No test asks the Hugging Face hub, and tiny models get a thread: more only wait, spinning.

    The trainer takes all cores unless this variable says otherwise, whatever torch was told before.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by folder; within one the order of the files stays."""

    def rank(item: pytest.Item) -> tuple[bool, int]:
        folder = next((name for name in FOLDERS if name in item.path.parts), FOLDERS[-1])
        return item.get_closest_marker("disruptive") is not None, FOLDERS.index(folder)

    items.sort(key=rank)
