"""A model that does not run all of itself, on two ranks; and what the two should come to."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from typing_extensions import override

from troika_trainer import exchange
from troika_trainer.batch import Batch
from troika_trainer.distributed import Group
from troika_trainer.exchange import Replicated
from troika_trainer.place import Place

STEPS = 8
RANKS = 2
WIDTH = 4
EXPERTS = 3


class Skipping(nn.Module):
    """Layers that are skipped at random, experts that the input chooses, and one for nobody."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))
        self.unused = nn.Linear(WIDTH, WIDTH)

    @override
    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = batch.labels.float()
        for layer in self.layers:
            if torch.rand(()) < 0.5:
                hidden = hidden + layer(hidden)
        expert = self.experts[int(batch.labels[0, 0]) % EXPERTS]
        return expert(hidden).square().sum(), hidden


def batch(number: int) -> Batch:
    """Its number says which expert takes it."""
    ids = torch.full((2, WIDTH), number)
    return Batch({"input_ids": ids}, ids, weight=8, tokens=8, pairs=32)


def micro_batches(model: nn.Module, step: int, rank: int) -> list[torch.Tensor]:
    """The losses of a rank in a step, each made when it is asked for."""
    torch.manual_seed(100 * step + rank)
    return [model(batch(number))[0] for number in (step, step + rank)]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """It decays: a gradient of zeros is not the same as none."""
    return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)


def on_a_rank(rank: int, folder: str, bucket_bytes: int) -> None:
    """Train as one of the ranks and leave the weights in FOLDER/RANK.pt."""
    exchange.FIRST_BUCKET_BYTES = exchange.BUCKET_BYTES = bucket_bytes
    torch.set_num_threads(1)
    meeting = Path(folder) / "meeting"
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=RANKS)
    model = Skipping()
    group = Group(Place(rank=rank, world_size=RANKS), torch.device("cpu"))
    torch.manual_seed(rank)
    strategy = Replicated(model, group, trial=batch(0))  # type: ignore[arg-type]
    optimizer = optimizer_of(model)
    for step in range(STEPS):
        for number, loss in enumerate(micro_batches(model, step, rank)):
            with strategy.exchanging(gradients=number == 1):
                torch.autograd.backward(loss)
        strategy.settle()
        optimizer.step()
        strategy.clear()
        assert all(weight.grad is None for weight in model.parameters())
    torch.save(model.state_dict(), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def alone() -> dict[str, torch.Tensor]:
    """The weights of one process that does the work of all ranks, with the mean of their losses."""
    model = Skipping()
    optimizer = optimizer_of(model)
    for step in range(STEPS):
        for rank in range(RANKS):
            for loss in micro_batches(model, step, rank):
                torch.autograd.backward(loss / RANKS)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model.state_dict()
