"""A save beside the training: what it holds, what is in flight, and what its process survives."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from typing_extensions import override

from support.nursery import ForkedWriter
from support.waiting import wait_until
from troika_trainer.checkpoint import Checkpoints, Saved
from troika_trainer.distributed import Group
from troika_trainer.errors import CommunicationError, StorageError
from troika_trainer.manifest import Progress
from troika_trainer.place import Place
from troika_trainer.staging import Staging, State

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forked_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch once more would be most of the time of these tests."""
    monkeypatch.setattr("troika_trainer.saver.subprocess.Popen", ForkedWriter)


class Run:
    """A model that can be stepped, and its checkpoints."""

    def __init__(self, directory: Path, *, attempt: int = 0, keep: int = 3, size: int = 4) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(size, size)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.checkpoints = Checkpoints(
            directory, keep=keep, group=Group(Place(attempt=attempt), CPU)
        )
        self.checkpoints.register()
        self.progress = Progress()

    def step(self) -> None:
        self.model(torch.ones(1, self.model.in_features)).sum().backward()
        self.checkpoints.copied()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step += 1

    def save(self, *, wait: bool = True) -> None:
        self.checkpoints.save(self.model, self.optimizer, self.progress, wait=wait)

    def finished(self) -> Saved:
        return wait_until(self.checkpoints.finished, "a finished checkpoint", every=0.01)

    def warm(self) -> None:
        """Wait until the writing process is there."""
        self.checkpoints.warm_up()
        link = self.checkpoints._saver._link
        assert link
        assert link.poll(90)

    def writer(self) -> int:
        process = self.checkpoints._saver._process
        assert process
        return process.pid

    def newest(self) -> int | None:
        manifest = self.checkpoints.newest()
        return manifest.progress.step if manifest else None


def steps(directory: Path) -> set[str]:
    return {path.name for path in directory.glob("step-*")}


def test_a_save_holds_the_step_that_it_was_asked_for(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step()
    run.warm()
    expected = [weight.clone() for weight in run.model.parameters()]
    run.save(wait=False)
    assert run.checkpoints.in_flight
    run.step()  # the loop goes on at once
    saved = run.finished()
    assert saved.checkpoint.step == 1
    assert not run.checkpoints.in_flight
    run.checkpoints.load(1, run.model)
    assert all(map(torch.equal, run.model.parameters(), expected))


class Counting(nn.Linear):
    """Counts its calls, as some norms do."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.register_buffer("calls", torch.zeros(1))
        self.calls: torch.Tensor

    @override
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(input)


def test_what_a_forward_pass_changes_is_copied_before_the_next_one(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.model = Counting()
    run.optimizer = torch.optim.AdamW(run.model.parameters(), lr=0.1)
    run.step()
    gate = threading.Event()
    run.checkpoints._saver._copies.submit(gate.wait, 60)  # the copy of the weights comes late
    run.save(wait=False)
    assert run.checkpoints.finished() is None
    assert run.checkpoints.in_flight
    expected = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.model(torch.ones(1, 4))  # reads the weights, changes the buffer
    gate.set()
    run.checkpoints.copied()
    with torch.no_grad():
        run.model.weight.zero_()
    run.checkpoints.settle()
    run.checkpoints.load(1, run.model)
    assert all(torch.equal(run.model.state_dict()[name], expected[name]) for name in expected)


def test_only_one_save_is_in_flight(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.warm()
    for _ in range(3):
        run.step()
        run.save(wait=False)
    run.checkpoints.settle()
    assert steps(tmp_path) == {"step-1", "step-2", "step-3"}


def test_the_writer_ignores_sigterm_and_a_killed_one_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path)
    run.warm()
    run.step()
    run.save(wait=False)
    os.kill(run.writer(), signal.SIGTERM)
    assert run.finished().checkpoint.step == 1
    run.step()
    os.kill(run.writer(), signal.SIGKILL)
    run.save()
    assert run.newest() == 2
    assert "the writing process is gone" in caplog.text


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> State:
    weights, states = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": states}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_gpu_that_is_behind_is_copied_as_it_is_after_its_step() -> None:
    """On a stream that waits for what computes, into pinned memory; other work goes on."""
    torch.manual_seed(0)
    model = nn.Linear(256, 256, device="cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    group = Group(Place(), CPU)
    model(torch.ones(1, 256, device="cuda")).sum().backward()
    optimizer.step()
    state = state_of(model, optimizer)
    staging = Staging.plan(state, group)
    staging.map(os.memfd_create("test"))
    # Some 100 ms of the device.
    torch.cuda._sleep(200_000_000)  # type: ignore[no-untyped-call]
    optimizer.step()
    staging.take(state_of(model, optimizer))()
    (found,) = [
        tensor for index, tensor in staging.taken.tensors.items() if index.fqn == "model.weight"
    ]
    assert found.is_pinned()
    assert torch.equal(found, model.weight.detach().cpu())


def test_the_writer_ends_when_nothing_more_is_saved(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.warm()
    writer = run.writer()
    run.checkpoints.close()
    with pytest.raises(ProcessLookupError):
        os.kill(writer, 0)
    run.checkpoints.close()  # and once more, for nothing is there


def test_an_older_attempt_can_neither_start_nor_commit(tmp_path: Path) -> None:
    old = Run(tmp_path, attempt=1)
    old.warm()
    old.step()
    new = Run(tmp_path, attempt=2)
    new.step()
    new.save()
    old.step()
    old.save(wait=False)
    with pytest.raises(CommunicationError, match="attempt 2 has taken over"):
        old.finished()
    with pytest.raises(CommunicationError, match="attempt 2 has taken over"):
        Run(tmp_path, attempt=1)
    assert steps(tmp_path) == {"step-1"}


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step()
    run.save()
    (tmp_path / "step-2").write_text("")  # neither a checkpoint nor a directory
    assert run.newest() == 1


def test_the_volume_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "volume")
    run.step()
    staged = run.checkpoints._make_staged(1)
    (tmp_path / "volume").rename(tmp_path / "gone")
    monkeypatch.setattr(run.checkpoints, "_make_staged", lambda _step: staged)
    with pytest.raises(StorageError, match=f"cannot write the checkpoint of step 1 to {tmp_path}"):
        run.save()
