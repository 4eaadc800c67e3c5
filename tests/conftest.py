"""The order of the whole run, and which tests go together where two run side by side."""

import os

import pytest

FOLDERS = ("unit", "golden", "chart", "integration", "e2e", "observability")


def pytest_configure() -> None:
    """No test asks the Hugging Face hub, and tiny models get a thread: more only wait, spinning.

    The trainer takes all cores unless this variable says otherwise, whatever torch was told before.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast and independent first, what kills the cluster last; within a folder as the files are.

    Side by side (`pytest -n 2 --dist loadgroup`) all tests of the cluster are one group, for there
    is one cluster; every other file is a group, for its tests share processes. What takes longest
    begins first there, so that nobody waits for it at the end.
    """
    if config.getoption("loadgroup", default=False):  # only the processes of pytest-xdist have it
        for item in items:
            item.add_marker(pytest.mark.xdist_group(_group(item)))
        items.sort(key=lambda item: (_is(item, "disruptive"), _how_short(item)))
    else:
        items.sort(key=lambda item: (_is(item, "disruptive"), _folder(item)))


def _group(item: pytest.Item) -> str:
    return "cluster" if _is(item, "cluster") else item.path.stem


def _how_short(item: pytest.Item) -> tuple[bool, int]:
    return not _is(item, "cluster"), -_folder(item)


def _folder(item: pytest.Item) -> int:
    name = next((name for name in FOLDERS if name in item.path.parts), FOLDERS[-1])
    return FOLDERS.index(name)


def _is(item: pytest.Item, mark: str) -> bool:
    return item.get_closest_marker(mark) is not None
