"""Copies of a model stay equal, whatever part of it a rank runs."""

from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

from support import skipping


@pytest.mark.parametrize("bucket_bytes", [1, 1 << 20], ids=["a-weight-each", "one-bucket"])
def test_ranks_that_skip_different_weights_make_the_run_of_one_rank(
    tmp_path: Path, bucket_bytes: int
) -> None:
    start_processes(  # type: ignore[no-untyped-call]
        skipping.on_a_rank, (str(tmp_path), bucket_bytes), skipping.RANKS, start_method="fork"
    )
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(skipping.RANKS))
    for name, weight in skipping.alone().items():
        assert torch.equal(one[name], other[name]), f"{name} has drifted apart"
        assert torch.allclose(one[name], weight, atol=1e-6), f"{name} was trained otherwise"
