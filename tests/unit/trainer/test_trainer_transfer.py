"""Batches arrive whole and in order, and what goes wrong on the way is told to the step."""

import pytest
import torch

from troika_trainer.batch import Batch, Integers, places_of
from troika_trainer.batches import Ahead, Batches, Order
from troika_trainer.errors import DataError
from troika_trainer.place import Place
from troika_trainer.transfer import Transfer, within

CPU = torch.device("cpu")


class Rows:
    """Example i is eight times the number i; one of them may be damaged."""

    def __init__(self, *, damaged: int | None = None) -> None:
        self._damaged = damaged

    def __len__(self) -> int:
        return 64

    def lengths(self, indices: Integers) -> Integers:
        return 0 * indices + 8

    def batch(self, indices: Integers, epochs: Integers) -> Batch:
        if self._damaged in (indices + 64 * epochs).tolist():
            raise DataError("a shard is damaged", "replace it")
        ids = torch.from_numpy(indices)[:, None].repeat(1, 8)
        labels = ids.masked_fill(ids % 2 == 0, -100)
        return Batch({"ids": ids}, labels, len(ids), 8, 64, places=places_of(labels))


def ahead(rows: Rows, device: torch.device) -> Ahead:
    batches = Batches(rows, Order(64, 16, 1), place=Place(), limit=32)
    return Ahead(batches, Transfer(device))


def test_on_the_cpu_there_is_no_way_to_go() -> None:
    batches = [Rows().batch(torch.arange(4).numpy(), torch.zeros(4).long().numpy())]
    transfer = Transfer(CPU)
    assert transfer.receive(transfer.send(batches)) is batches


def test_so_many_batches_are_sent_as_there_is_room_for() -> None:
    batch = Rows().batch(torch.arange(4).numpy(), torch.zeros(4).long().numpy())
    assert batch.nbytes == 8 * (4 * 8 + 4 * 8 + 2 * 16), "inputs, labels and places"
    sizes = [0, 1, 3 * batch.nbytes - 1, 3 * batch.nbytes, 1 << 20]
    assert [within([batch] * 5, room=size) for size in sizes] == [0, 0, 2, 3, 5]


def test_every_tensor_of_a_batch_goes() -> None:
    batch = Rows().batch(torch.arange(4).numpy(), torch.zeros(4).long().numpy())
    batch = batch.mapped(lambda tensor: tensor.to("meta"))
    assert batch.places is not None
    assert {batch.inputs["ids"].device, batch.labels.device, batch.places.device} == {
        torch.device("meta")
    }
    assert (batch.weight, batch.tokens, batch.pairs) == (4, 8, 64)


def test_what_goes_wrong_in_the_thread_is_raised_in_the_step_that_needs_it() -> None:
    order = Order(64, 16, 1)
    damaged = int(order.step(3)[0][5])
    steps = ahead(Rows(damaged=damaged), CPU)
    steps.step(1)
    steps.step(2)
    with pytest.raises(DataError, match="a shard is damaged"):
        steps.step(3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_that_is_behind_reads_what_was_sent_to_it() -> None:
    """The host runs far ahead of it; memory of batches that it has not read is not used again."""
    device = torch.device("cuda", 0)
    steps, plain = ahead(Rows(), device), Batches(Rows(), Order(64, 16, 1), place=Place(), limit=32)
    read: list[tuple[torch.Tensor, torch.Tensor]] = []
    for step in range(1, 30):
        # Some 10 ms of the device.
        torch.cuda._sleep(20_000_000)  # type: ignore[no-untyped-call]
        for there, here in zip(steps.step(step), plain.step(step), strict=True):
            assert there.labels.is_cuda
            rows, columns = there.where
            read.append((there.inputs["ids"][rows, columns], here.inputs["ids"][here.where]))
    for found, wanted in read:
        assert torch.equal(found.cpu(), wanted)
