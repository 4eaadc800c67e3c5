"""Running averages of batch norms: of the whole batch on all ranks, and untouched by a trial."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore
from typing_extensions import override

from troika_trainer.averages import RunningAverages
from troika_trainer.distributed import Group
from troika_trainer.place import Place


class Thread(Group):
    """A rank that is a thread, with a process group of its own, for the default one is shared."""

    def __init__(self, rank: int, size: int, store: HashStore) -> None:
        super().__init__(Place(rank=rank, world_size=size), torch.device("cpu"))
        self._gloo: Any = dist.ProcessGroupGloo(store, rank, size)

    @override
    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self._gloo.allreduce([values]).wait()
        return values


def network() -> nn.Sequential:
    """Two norms of which training moves the averages, one that is frozen, one that has none."""
    torch.manual_seed(0)
    frozen, without = nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False)
    model = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), frozen, without, nn.BatchNorm1d(4, dtype=torch.float64)
    )
    frozen.eval()
    return model


def states(*, size: int, steps: list[int], share_at: list[int]) -> list[dict[str, torch.Tensor]]:
    """Buffers of every rank after these steps, each of the rank's share of one batch."""
    store, first = HashStore(), network()

    def of_rank(rank: int) -> dict[str, torch.Tensor]:
        group, model = Thread(rank, size, store), deepcopy(first)
        averages = RunningAverages(model)
        for step in steps:
            batch = torch.randn(6 * 8, 3, generator=torch.Generator().manual_seed(step))
            model[1](model[0](batch[rank::size]))
            model[4](batch[rank::size, :1].double().expand(-1, 4))
            if step in share_at:
                averages.share(group)
        return {name: buffer.clone() for name, buffer in model.named_buffers()}

    with ThreadPoolExecutor(size) as ranks:
        return list(ranks.map(of_rank, range(size)))


def test_ranks_share_one_mean_and_the_count_of_the_first() -> None:
    own = states(size=3, steps=[1, 2], share_at=[])
    assert not torch.equal(own[0]["1.running_mean"], own[1]["1.running_mean"])
    shared = states(size=3, steps=[1, 2], share_at=[2])
    for name, value in shared[0].items():
        assert all(torch.equal(value, other[name]) for other in shared), name
        mean = torch.stack([other[name].double() for other in own]).mean(0)
        assert torch.allclose(value.double(), mean, atol=1e-7), name
        assert value.dtype is own[0][name].dtype
    assert shared[0]["1.num_batches_tracked"] == 2


def test_the_mean_of_a_batch_norm_is_that_of_one_rank() -> None:
    """Equal shares: the mean over ranks is the mean over the batch. Variances differ a little."""
    alone = states(size=1, steps=[1, 2, 3], share_at=[])[0]
    for rank in states(size=2, steps=[1, 2, 3], share_at=[3]):
        assert torch.allclose(rank["1.running_mean"], alone["1.running_mean"], atol=1e-6)


def test_how_often_they_are_shared_does_not_matter() -> None:
    once = states(size=2, steps=[1, 2, 3, 4], share_at=[4])
    often = states(size=2, steps=[1, 2, 3, 4], share_at=[1, 3, 4])
    for name, value in once[0].items():
        assert torch.allclose(value, often[0][name], atol=1e-6), name


def test_what_is_equal_stays_as_it_is() -> None:
    """Three thirds are one only where they are added up in more digits."""
    store, values = HashStore(), torch.tensor([0.1, 1 / 3, 0.7, 1e-9])

    def of_rank(rank: int) -> torch.Tensor:
        norm = nn.BatchNorm1d(4)
        norm.running_mean = values.clone()
        RunningAverages(norm).share(Thread(rank, 3, store))
        return norm.running_mean

    with ThreadPoolExecutor(3) as ranks:
        assert all(torch.equal(mean, values) for mean in ranks.map(of_rank, range(3)))


def test_a_trial_does_not_count() -> None:
    model = network()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with RunningAverages(model).untouched():
        model[1](model[0](torch.ones(8, 3).normal_())).sum().backward()
        assert not torch.equal(model.get_buffer("1.running_mean"), before["1.running_mean"])
    assert model[0].weight.grad is not None
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())
