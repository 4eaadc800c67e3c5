"""A disk of its own for each rank, as nodes have: what a file holds depends on who reads it.

In the child of a nursery: ``NURSERY_SETUP=support.disks:of_environment``.
"""

import os
from pathlib import Path

HERE = Path("/proc/self/cwd")
"""The same path on all ranks, and on each of them its own directory."""


def of_environment() -> None:
    """Work in the directory of this rank below DISKS."""
    os.chdir(Path(os.environ["DISKS"]) / os.environ["RANK"])
