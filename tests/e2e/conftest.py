"""The embedded cluster with the chart installed, a volume with real data, and a clean namespace."""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import volume
from demo.install import install
from demo.shell import DemoError
from demo.target import Target, find
from e2e.harness import Jobs

TESTS = Path(__file__).resolve().parents[1]
NAMESPACE = "troika-e2e"
CLAIM = "e2e"
NUM_ROWS = 1200
"""Rows of each file: enough to learn from, few enough for seconds."""


@pytest.fixture(scope="session")
def target() -> Target:
    target = find({})
    install(target, poll_seconds=1)
    return target


@pytest.fixture(scope="session")
def jobs(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    folder = tmp_path_factory.mktemp("data")
    target.kubectl("apply", "-f", "-", stdin=json.dumps(_storage()))
    jobs = Jobs(target, NAMESPACE)
    jobs.kubectl("delete", "ptj,ftj", "--all", "--wait=true")
    volume.start(target, NAMESPACE, CLAIM)
    jobs.kubectl(
        "exec", volume.POD, "--", "rm", "-rf", f"{volume.MOUNT}/models", f"{volume.MOUNT}/run"
    )
    _real_data(folder)
    volume.upload(target, NAMESPACE, folder)
    yield jobs
    # The tests that run last take the whole cluster away, and the namespace with it.
    with contextlib.suppress(DemoError):
        target.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Jobs of a test go when it ends, so that the two cores belong to the next one."""
    yield
    if "jobs" in request.fixturenames:
        jobs: Jobs = request.getfixturevalue("jobs")
        for kind, name in jobs.made:
            jobs.kubectl("delete", kind, name, "--ignore-not-found", "--wait=false")
        jobs.made.clear()


def _storage() -> dict[str, Any]:
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM, "namespace": NAMESPACE},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "5Gi"}},
        },
    }
    return {"apiVersion": "v1", "kind": "List", "items": [namespace, claim]}


def _real_data(folder: Path) -> None:
    """The first rows of the demo's sets, and a file with a broken row."""
    whole = folder / "whole"
    subprocess.run(
        [sys.executable, "-m", "data", whole, "prose", "reviews"],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        check=True,
    )
    for split in ("train", "validation"):
        lines = (whole / "prose" / f"{split}.jsonl").read_text().splitlines(keepends=True)
        (folder / f"prose-{split}.jsonl").write_text("".join(lines[:NUM_ROWS]))
    for split in ("train", "validation", "test"):
        with (whole / "reviews" / f"{split}.csv").open(newline="") as file:
            rows = list(csv.reader(file))[: NUM_ROWS // 2 + 1]
        with (folder / f"reviews-{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    good = (folder / "prose-validation.jsonl").read_text().splitlines()[:20]
    (folder / "broken.jsonl").write_text("\n".join([*good[:10], '{"text": 7', *good[10:]]) + "\n")
    shutil.rmtree(whole)
