"""The order of the whole run, and which tests go together where two run side by side."""

import os
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

FOLDERS = ("unit", "golden", "chart", "integration", "e2e", "observability")

ON_THE_CLUSTER = (
    "tests/chart/",
    "tests/e2e/",
    "tests/integration/test_operator_",
    "tests/integration/test_crd_",
)
"""How the path of a test begins that may need the cluster."""


class SideBySide(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """All tests of the cluster in one process, for there is one cluster; each other file in one.

    pytest-xdist 3.8 does this by marks (`--dist loadgroup`), but not with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "cluster" if nodeid.startswith(ON_THE_CLUSTER) else nodeid.split("::", 1)[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide:
    """Whatever `--dist` says."""
    return SideBySide(config, log)


def pytest_configure() -> None:
    """No test asks the Hugging Face hub, and tiny models get a thread: more only wait, spinning.

    The trainer takes all cores unless this variable says otherwise, whatever torch was told before.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast and independent first, what kills the cluster last; within a folder as the files are.

    Side by side (`pytest -n 2`), what takes longest begins first, so that nobody waits for it at
    the end.
    """
    for item in items:
        if _is(item, "cluster") and not item.nodeid.startswith(ON_THE_CLUSTER):
            raise pytest.UsageError(f"{item.nodeid} needs the cluster: see ON_THE_CLUSTER")
    items.sort(key=_turn if hasattr(config, "workerinput") else _alone)


def _alone(item: pytest.Item) -> tuple[bool, int]:
    return _is(item, "disruptive"), _folder(item)


def _turn(item: pytest.Item) -> tuple[bool, bool, int]:
    if item.nodeid.startswith(ON_THE_CLUSTER):
        return False, *_alone(item)
    return True, False, -_folder(item)


def _folder(item: pytest.Item) -> int:
    name = next((name for name in FOLDERS if name in item.path.parts), FOLDERS[-1])
    return FOLDERS.index(name)


def _is(item: pytest.Item, mark: str) -> bool:
    return item.get_closest_marker(mark) is not None
