"""A checkpoint is whole or not there; the newest whole one is found; an old attempt stays out."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from troika_api.term import Term
from troika_trainer import writer
from troika_trainer.checkpoint import Checkpoints, checkpoint_directory
from troika_trainer.directories import staged_of, superfluous
from troika_trainer.distributed import Group
from troika_trainer.errors import CommunicationError, StorageError
from troika_trainer.fence import Fence
from troika_trainer.manifest import Progress, _checksum
from troika_trainer.place import Place
from troika_trainer.writer import write


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


def checkpoints_of(directory: Path, *numbers: int, tokens: int = 0) -> Checkpoints:
    """Those of these steps, which have just been saved."""
    model, optimizer = parts()
    checkpoints = registered(directory)
    for step in numbers:
        checkpoints.save(model, optimizer, Progress(step=step, tokens=tokens), wait=True)
    return checkpoints


def newest(checkpoints: Checkpoints) -> Progress:
    found = checkpoints.newest()
    assert found is not None
    return found.progress


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


@pytest.mark.parametrize(("keep", "left"), [(1, [15]), (2, [10, 15])])
def test_damaged_ones_do_not_push_out_the_one_just_committed_but_go(
    tmp_path: Path, keep: int, left: list[int]
) -> None:
    model, optimizer = parts()
    checkpoints = registered(tmp_path, keep=keep)
    checkpoints.save(model, optimizer, Progress(step=10), wait=True)
    for step in (20, 30):
        (tmp_path / f"step-{step}").mkdir()  # without a manifest
    assert checkpoints.newest() is not None
    checkpoints.save(model, optimizer, Progress(step=15), wait=True)
    assert steps(tmp_path) == [f"step-{step}" for step in left]


def test_who_wakes_up_too_late_neither_commits_nor_takes_anything_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its last look at the fence and its commit another attempt has made the same step."""
    model, optimizer = parts()
    old = registered(tmp_path, attempt=3, keep=1)
    check = Fence.check

    def sleep(fence: Fence) -> None:
        check(fence)
        monkeypatch.setattr(Fence, "check", check)
        new = registered(tmp_path, attempt=4, keep=1)
        new.save(model, optimizer, Progress(step=10, tokens=4), wait=True)

    monkeypatch.setattr(Fence, "check", sleep)
    with pytest.raises(CommunicationError, match="attempt 4 has taken over"):
        old.save(model, optimizer, Progress(step=10, tokens=3), wait=True)
    assert newest(registered(tmp_path, attempt=5)).tokens == 4
    assert steps(tmp_path) == ["step-10"]


def test_who_was_superseded_after_its_commit_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = parts()
    old = registered(tmp_path, attempt=3, keep=1)
    old.save(model, optimizer, Progress(step=10), wait=True)
    commit = writer._commit

    def slow(*given: Any) -> Any:
        manifest = commit(*given)
        registered(tmp_path, attempt=4, keep=1)
        return manifest

    monkeypatch.setattr(writer, "_commit", slow)
    old.save(model, optimizer, Progress(step=20), wait=True)
    assert steps(tmp_path) == ["step-10", "step-20"]


def test_which_checkpoints_are_superfluous() -> None:
    found = {10, 20, 30, 40, 50}
    assert superfluous(found, committed=50, best=10, damaged=(), keep=2) == [20, 30]
    assert superfluous(found, committed=30, best=None, damaged={40, 50}, keep=2) == [10, 40, 50]
    assert superfluous(found, committed=30, best=20, damaged=(), keep=1) == [10, 40]
    assert superfluous(found, committed=30, best=40, damaged={30, 40}, keep=1) == [10, 20]


def sealed(**content: Any) -> str:
    return json.dumps({**content, "sha256": _checksum(content)})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "null",
        "[]",
        '"a"',
        pytest.param(sealed(), id="sealed {}"),
        pytest.param(sealed(files=None), id="sealed files"),
        "no number",
        "unsealed",
        "foreign",
    ],
)
def test_a_manifest_that_is_none_is_damage(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = checkpoints_of(tmp_path, 10, 20)
    victim = tmp_path / "step-20" / "manifest.json"
    good = victim.read_text()
    whole = json.loads(good)
    del whole["sha256"]
    match content:
        case "no number":
            content = sealed(**whole | {"attempt": None})
        case "unsealed":
            content = json.dumps(whole)
        case "foreign":
            del whole["lineage"]
            content = sealed(**whole)
        case _:
            pass
    victim.write_text(content)
    assert newest(checkpoints).step == 10
    assert f"{victim} is damaged" in caplog.text
    victim.write_text(good)
    assert newest(checkpoints).step == 20


def test_a_manifest_in_which_a_number_has_changed_is_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = checkpoints_of(tmp_path, 10, 20, tokens=4711)
    victim = tmp_path / "step-20" / "manifest.json"
    victim.write_text(victim.read_text().replace("4711", "4712"))
    assert newest(checkpoints).step == 10
    assert f"{victim} is damaged: its SHA-256 has changed" in caplog.text


@pytest.mark.parametrize("name", ["manifest.json", ".metadata", "__0_0.distcp"])
def test_what_cannot_be_read_is_not_taken_for_damage(tmp_path: Path, name: str) -> None:
    """A link to itself stands for storage that fails: it is there and cannot be opened."""
    checkpoints = checkpoints_of(tmp_path, 10, 20)
    victim = tmp_path / "step-20" / name
    victim.unlink()
    victim.symlink_to(victim)
    with pytest.raises(StorageError, match="cannot be read: Too many levels") as caught:
        checkpoints.newest()
    assert str(victim) in str(caught.value)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path: Path) -> None:
    assert registered(tmp_path).newest() is None
    for step in (10, 20):
        (tmp_path / f"step-{step}").mkdir()
    with pytest.raises(StorageError, match="damaged are step-20, step-10") as caught:
        registered(tmp_path).newest()
    assert "another checkpoint.uri" in str(caught.value.remedy)


@pytest.mark.parametrize("harm", ["cut", "change", "remove", "manifest"])
def test_a_damaged_one_is_skipped_with_the_name_of_the_file(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = checkpoints_of(tmp_path, 10, 20)
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
    assert newest(checkpoints).step == 10
    assert str(victim) in caplog.text


def test_what_was_being_written_is_no_checkpoint_and_goes_at_the_next_start(
    tmp_path: Path,
) -> None:
    checkpoints = checkpoints_of(tmp_path, 10)
    staged_of(tmp_path, 20, Place().term).mkdir()
    assert newest(checkpoints).step == 10
    registered(tmp_path, attempt=1)
    assert steps(tmp_path) == ["step-10"]


def test_what_others_have_put_there_is_left_alone(tmp_path: Path) -> None:
    model, optimizer = parts()
    checkpoints_of(tmp_path, 10)
    names = ("step-20.tmp-0", "step-x.tmp-", "step-10.tmp-mine-old", "20", "step-²", "step-010")
    for name in names:
        (tmp_path / name).mkdir()
    later = registered(tmp_path, attempt=1, keep=1)
    assert later.steps() == [10]
    later.save(model, optimizer, Progress(step=30), wait=True)
    assert {path.name for path in tmp_path.iterdir()} == {*names, "step-30", "terms"}


def test_an_older_attempt_can_neither_commit_nor_start(tmp_path: Path) -> None:
    model, optimizer = parts()
    old = registered(tmp_path, attempt=3)
    registered(tmp_path, attempt=4)
    with pytest.raises(CommunicationError, match=r"attempt 4 has taken over .* this is attempt 3"):
        old.save(model, optimizer, Progress(step=10), wait=True)
    assert "step-10" not in steps(tmp_path)
    with pytest.raises(CommunicationError):
        registered(tmp_path, attempt=3)


def test_an_attempt_that_was_slow_to_register_leaves_the_newer_one_alone(tmp_path: Path) -> None:
    model, optimizer = parts()
    slow = Checkpoints(tmp_path, keep=3, group=group(3))
    new = registered(tmp_path, attempt=4)
    staged = new._make_staged(10)
    Fence(tmp_path, Place(attempt=3).term).announce()  # it had looked before
    with pytest.raises(CommunicationError, match="attempt 4 has taken over"):
        slow.register()
    assert staged.exists()
    new.save(model, optimizer, Progress(step=10), wait=True)
    assert "step-10" in steps(tmp_path)


def test_who_registers_takes_away_what_older_ones_are_writing_and_they_cannot_commit(
    tmp_path: Path,
) -> None:
    old = registered(tmp_path, attempt=3)
    staged = old._make_staged(10)
    registered(tmp_path, attempt=4)
    assert not staged.exists()
    assert steps(tmp_path) == []


def test_a_save_does_not_fail_because_an_old_checkpoint_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stale(path: Path, by: Term) -> None:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    model, optimizer = parts()
    checkpoints = registered(tmp_path, keep=1)
    checkpoints.save(model, optimizer, Progress(step=10), wait=True)
    monkeypatch.setattr("troika_trainer.directories.remove", stale)
    checkpoints.save(model, optimizer, Progress(step=20), wait=True)
    assert checkpoints.finished() is not None
    assert f"{tmp_path / 'step-10'} cannot be removed: Stale file handle" in caplog.text
    assert steps(tmp_path) == ["step-10", "step-20"]


def test_a_writer_that_is_killed_before_its_commit_is_followed_by_one_that_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it needs of the other ranks is still there."""
    model, optimizer = parts()
    checkpoints = registered(tmp_path)
    before: list[str] = []
    check = Fence.check

    def look(fence: Fence) -> None:
        before.extend(path.name for path in tmp_path.glob("step-10.tmp-*/part-*"))
        check(fence)

    monkeypatch.setattr(Fence, "check", look)
    checkpoints.save(model, optimizer, Progress(step=10), wait=True)
    assert before == ["part-0"]
    assert not list((tmp_path / "step-10").glob("part-*"))


def test_a_writer_that_is_killed_after_its_commit_has_saved(tmp_path: Path) -> None:
    checkpoints = checkpoints_of(tmp_path, 10)
    assert checkpoints._staging is not None
    request = checkpoints._request(tmp_path / "step-10.tmp-gone", Progress(step=10))
    answer = write(checkpoints._staging.layout, checkpoints._staging.taken, request)
    assert answer.manifest.progress.step == 10
    assert answer.manifest.files


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    model, optimizer = parts()
    checkpoints = registered(tmp_path)
    checkpoints.save(model, optimizer, Progress(step=10), wait=True)
    (tmp_path / "step-10" / "manifest.json").write_text("{}")
    checkpoints.save(model, optimizer, Progress(step=10, tokens=5), wait=True)
    assert newest(checkpoints).tokens == 5


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
