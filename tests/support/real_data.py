"""The real data sets of `tests/data`, made once a machine and shared by all tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def real_data(*names: str) -> Path:
    """A folder that holds these sets; making them takes seconds, the first time."""
    cache = os.environ.get("TROIKA_CACHE") or Path.home() / ".cache" / "troika"
    folder = Path(cache) / "data"
    subprocess.run(
        [sys.executable, "-m", "data", str(folder), *names],
        check=True,
        cwd=ROOT / "tests",
        stdout=subprocess.DEVNULL,
    )
    return folder


def head(source: Path, target: Path, rows: int) -> Path:
    """The first rows of a file, and its header where it is a CSV."""
    lines = source.read_text().splitlines(keepends=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(lines[: rows + (source.suffix == ".csv")]))
    return target
