"""A checkpoint is whole or not there; the newest whole one is found; an old attempt stays out."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from troika_trainer.checkpoint import Checkpoints, checkpoint_directory
from troika_trainer.distributed import Group
from troika_trainer.errors import CommunicationError, StorageError
from troika_trainer.manifest import Progress
from troika_trainer.place import Place


def group(attempt: int = 0) -> Group:
    return Group(Place(attempt=attempt), torch.device("cpu"))


def parts(seed: int = 1) -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def registered(directory: Path, *, attempt: int = 0, keep: int = 3) -> Checkpoints:
    checkpoints = Checkpoints(directory, keep=keep, group=group(attempt))
    checkpoints.register()
    return checkpoints


def steps(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("step-*"))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    model, optimizer = parts(1)
    checkpoints = registered(tmp_path)
    progress = Progress(step=7, tokens=99, best_step=3, best_score=0.5, history=[{"step": 3.0}])
    checkpoints.save(model, optimizer, progress, wait=True)
    saved = checkpoints.finished()
    assert saved is not None
    assert (saved.checkpoint.step, saved.checkpoint.path) == (7, str(tmp_path / "step-7"))

    other, state = parts(2)
    manifest = checkpoints.newest()
    assert manifest is not None
    assert manifest.progress == progress
    checkpoints.load(7, other, state)
    for name, weight in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight)
    moments = [entry["exp_avg"] for entry in optimizer.state_dict()["state"].values()]
    loaded = [entry["exp_avg"] for entry in state.state_dict()["state"].values()]
    assert all(torch.equal(a, b) for a, b in zip(moments, loaded, strict=True))


def test_weights_alone_can_be_loaded(tmp_path: Path) -> None:
    model, optimizer = parts(1)
    checkpoints = registered(tmp_path)
    checkpoints.save(model, optimizer, Progress(step=1), wait=True)
    other, _ = parts(2)
    checkpoints.load(1, other)
    assert torch.equal(other.state_dict()["0.weight"], model.state_dict()["0.weight"])


def test_the_newest_n_are_kept_and_the_best(tmp_path: Path) -> None:
    model, optimizer = parts()
    checkpoints = registered(tmp_path, keep=2)
    for step in (10, 20, 30, 100):
        checkpoints.save(model, optimizer, Progress(step=step, best_step=10), wait=True)
    assert steps(tmp_path) == ["step-10", "step-100", "step-30"]


@pytest.mark.parametrize("harm", ["cut", "change", "remove", "manifest"])
def test_a_damaged_one_is_skipped_with_the_name_of_the_file(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = parts()
    checkpoints = registered(tmp_path)
    for step in (10, 20):
        checkpoints.save(model, optimizer, Progress(step=step), wait=True)
    victim = next((tmp_path / "step-20").glob("*.distcp"))
    content = victim.read_bytes()
    match harm:
        case "cut":
            victim.write_bytes(content[:-1])
        case "change":
            victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "remove":
            victim.unlink()
        case _:
            victim = tmp_path / "step-20" / "manifest.json"
            victim.write_text(victim.read_text()[:-20])
    found = checkpoints.newest()
    assert found is not None
    assert found.progress.step == 10
    assert str(victim) in caplog.text


def test_what_was_being_written_is_no_checkpoint_and_goes_at_the_next_start(
    tmp_path: Path,
) -> None:
    model, optimizer = parts()
    checkpoints = registered(tmp_path)
    checkpoints.save(model, optimizer, Progress(step=10), wait=True)
    (tmp_path / "step-20.tmp-0").mkdir()
    found = checkpoints.newest()
    assert found is not None
    assert found.progress.step == 10
    registered(tmp_path, attempt=1)
    assert steps(tmp_path) == ["step-10"]


def test_an_older_attempt_can_neither_commit_nor_start(tmp_path: Path) -> None:
    model, optimizer = parts()
    old = registered(tmp_path, attempt=3)
    registered(tmp_path, attempt=4)
    with pytest.raises(CommunicationError, match=r"attempt 4 has taken over .* this is attempt 3"):
        old.save(model, optimizer, Progress(step=10), wait=True)
    assert "step-10" not in steps(tmp_path)
    with pytest.raises(CommunicationError):
        registered(tmp_path, attempt=3)


def test_the_same_attempt_may_start_again_in_place(tmp_path: Path) -> None:
    registered(tmp_path, attempt=3)
    registered(tmp_path, attempt=3)
    assert (tmp_path / "fence").read_text() == "3"


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    model, optimizer = parts()
    checkpoints = registered(tmp_path)
    checkpoints.save(model, optimizer, Progress(step=10), wait=True)
    (tmp_path / "step-10" / "manifest.json").write_text("{}")
    checkpoints.save(model, optimizer, Progress(step=10, tokens=5), wait=True)
    found = checkpoints.newest()
    assert found is not None
    assert found.progress.tokens == 5


def test_the_manifest_says_who_wrote_it_with_what(tmp_path: Path) -> None:
    model, optimizer = parts()
    registered(tmp_path, attempt=2).save(model, optimizer, Progress(step=1), wait=True)
    manifest = json.loads((tmp_path / "step-1" / "manifest.json").read_text())
    assert (manifest["attempt"], manifest["world_size"]) == (2, 1)
    assert set(manifest["versions"]) == {"torch", "transformers"}
    assert {".metadata", "__0_0.distcp"} == set(manifest["files"])


def test_checkpoints_need_a_file_system() -> None:
    assert checkpoint_directory("/mnt/x") == checkpoint_directory("file:///mnt/x") == Path("/mnt/x")
    with pytest.raises(StorageError, match=r"checkpoint\.uri s3://bucket/x: expected a mounted"):
        checkpoint_directory("s3://bucket/x")
