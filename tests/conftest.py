"""The order of the whole run: fast and independent first, what kills the cluster last."""

import pytest

FOLDERS = ("unit", "golden", "chart", "integration", "e2e", "observability")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by folder; within one the order of the files stays."""

    def rank(item: pytest.Item) -> tuple[bool, int]:
        folder = next((name for name in FOLDERS if name in item.path.parts), FOLDERS[-1])
        return item.get_closest_marker("disruptive") is not None, FOLDERS.index(folder)

    items.sort(key=rank)
