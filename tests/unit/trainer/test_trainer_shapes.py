"""What is kept of the shapes of batches on a CPU does not grow with the length of a run."""

import os
import subprocess
import sys

import pytest

PRODUCTS = """
import ctypes, sys
from troika_trainer import runfile
assert "torch" not in sys.modules, "it reads the variables when it is imported"
if sys.argv[1] == "limited":
    runfile.limit_caches_of_shapes()
import torch

def held():
    ctypes.CDLL(None).malloc_trim(0)
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024

weight, most = torch.randn(512, 512).bfloat16(), torch.randn(1200, 512).bfloat16()
torch.nn.functional.linear(most, weight)
before = held()
for rows in range(600, 1200):
    torch.nn.functional.linear(most[:rows], weight)
print(held() - before)
"""


def grown(way: str) -> float:
    """MiB that products of 600 shapes leave behind."""
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PRODUCTS, way],
        check=False,
        capture_output=True,
        text=True,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


def test_kernels_of_the_last_shapes_only_are_kept() -> None:
    unlimited = grown("unlimited")
    if unlimited < 50:
        pytest.skip(f"this CPU has no kernels that are kept by shape: {unlimited:.0f} MiB")
    assert grown("limited") < unlimited / 2
