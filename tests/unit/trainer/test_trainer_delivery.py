"""A model is whole where its readers look, and only an attempt that may puts it there."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest

from support.trainer_runs import pretrain_run, train_here
from troika_api.term import Term
from troika_trainer.delivery import FIRST_READ, Delivery, delivery_to
from troika_trainer.errors import CommunicationError
from troika_trainer.export import export
from troika_trainer.fence import Fence
from troika_trainer.integrity import SUMS, broken
from troika_trainer.place import Place

OLD = {"config.json": "old", "model-00001-of-00002.safetensors": "old", "extra/a.txt": "old"}
NEW = {"config.json": "new", "model.safetensors": "new", "extra/b.txt": "new"}

NOBODY = 65534


def calm() -> None:
    """Nobody has to know."""


def begin(uri: str | Path, files: dict[str, str], *, attempt: int, token: str = "0a") -> Delivery:
    """A delivery that is ready to be published."""
    delivery = delivery_to(str(uri), term=Term.by_hand(attempt), token=token)
    delivery.begin()
    for name, content in files.items():
        (delivery.directory / name).parent.mkdir(exist_ok=True)
        (delivery.directory / name).write_text(content)
    delivery.settle()
    return delivery


def deliver(uri: str | Path, files: dict[str, str], *, attempt: int) -> None:
    delivery = begin(uri, files, attempt=attempt)
    delivery.publish()
    delivery.clean_up()


def found(filesystem: Any, path: str | Path) -> dict[str, str]:
    """Name and content of every file below a directory, but for the checksums."""
    root = filesystem._strip_protocol(str(path))
    files = {
        name.removeprefix(f"{root}/"): filesystem.cat_file(name) for name in filesystem.find(root)
    }
    return {name: text.decode() for name, text in files.items() if name != SUMS}


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A mount point."""
    path = tmp_path / "volume"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "troika-test", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this user may not mount a volume")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def bucket() -> Iterator[str]:
    """A place in a store that is no disk."""
    filesystem = fsspec.filesystem("memory")
    yield "memory://delivered/model"
    filesystem.rm("/delivered", recursive=True)


def test_an_old_attempt_that_fails_late_leaves_the_new_one_alone(tmp_path: Path) -> None:
    old = begin(tmp_path / "model", OLD, attempt=1)
    new = begin(tmp_path / "model", NEW, attempt=2)
    assert not old.directory.exists(), "its attempt is dead"
    old.clean_up()
    again = begin(tmp_path / "model", OLD, attempt=1, token="0b")
    again.clean_up()
    new.publish()
    new.clean_up()
    assert found(fsspec.filesystem("file"), tmp_path / "model") == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_there_stays_until_the_new_one_is(tmp_path: Path) -> None:
    deliver(tmp_path / "model", OLD, attempt=0)
    (tmp_path / ".model.old-1-0c").mkdir()
    new = begin(tmp_path / "model", NEW, attempt=1)
    assert (tmp_path / ".model.old-1-0c").exists(), "perhaps the only model that there is"
    for file in new.directory.rglob("*"):
        if file.is_file():
            file.unlink()
    for folder in (new.directory / "extra", new.directory):
        folder.rmdir()
    with pytest.raises(FileNotFoundError):
        new.publish()
    assert found(fsspec.filesystem("file"), tmp_path / "model") == OLD


@pytest.mark.parametrize("earlier", [{}, OLD], ids=["first", "again"])
def test_what_others_keep_in_the_directory_of_the_model_stays(
    tmp_path: Path, earlier: dict[str, str]
) -> None:
    model = tmp_path / "model"
    if earlier:
        deliver(model, earlier, attempt=0)
    others = {"checkpoints/step-5/state": "five", "extra/notes.txt": "mine", "train.jsonl": "rows"}
    for name, content in others.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(content)
    deliver(model, NEW, attempt=1)
    assert found(fsspec.filesystem("file"), model) == {**NEW, **others}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_directory_with_a_model_alone_or_with_nothing_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for content in (OLD, NEW):
        delivery = begin(tmp_path / "model", content, attempt=1)
        assert delivery.directory.parent == tmp_path
        delivery.publish()


def test_all_of_it_is_on_the_disk_before_it_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    sync = os.fsync

    def record(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))  # noqa: PTH115
        sync(handle)

    monkeypatch.setattr(os, "fsync", record)
    delivery = begin(tmp_path / "model", NEW, attempt=0)
    assert {delivery.directory, *delivery.directory.rglob("*")} <= set(synced)
    synced.clear()
    delivery.publish()
    assert synced == [tmp_path], "the new name lasts"
    assert broken(tmp_path / "model", thorough=True, alive=calm) is None


def test_a_mount_point_is_filled_from_inside(volume: Path) -> None:
    (volume / "notes.md").write_text("not ours")
    (volume / f".tmp-{Term.by_hand(0)}-0c").mkdir()
    later = volume / f".tmp-{Term.by_hand(7)}-0c"
    later.mkdir()
    for files in (OLD, NEW):
        delivery = begin(volume, files, attempt=1)
        assert delivery.directory.parent == volume
        assert list(volume.glob(".tmp*-0c")) == [later]
        delivery.publish()
        delivery.clean_up()
        assert found(fsspec.filesystem("file"), volume) == {**files, "notes.md": "not ours"}
        assert broken(volume, thorough=True, alive=calm) is None
    assert not list(volume.glob(f".tmp-{Term.by_hand(1)}-*"))


@pytest.fixture
def only_inside() -> Iterator[Path]:
    """A directory that may be written, in one that may not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        path.mkdir()
        Path(folder).chmod(0o555)
        user = os.geteuid()
        if user == 0:  # who may do all
            os.chown(path, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        try:
            yield path
        finally:
            os.seteuid(user)
            Path(folder).chmod(0o755)


def test_a_directory_that_is_all_one_may_write_to_is_filled_from_inside(only_inside: Path) -> None:
    deliver(only_inside, OLD, attempt=0)
    deliver(only_inside, NEW, attempt=1)
    assert found(fsspec.filesystem("file"), only_inside) == NEW
    assert not list(only_inside.glob(".*"))


def test_a_model_goes_to_the_mount_point_of_a_claim(tmp_path: Path, volume: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=16m", str(volume)], check=True)
    train_here(pretrain_run(tmp_path, training={"steps": 1}, output={"uri": str(volume)}))
    assert {"config.json", "model.safetensors", "report.html"} <= set(os.listdir(volume))  # noqa: PTH208
    assert not list(volume.glob(".*"))


def test_what_readers_look_at_first_comes_last(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystem = fsspec.filesystem("memory")
    deliver(bucket, OLD, attempt=0)
    deliver(bucket, NEW, attempt=1)
    assert found(filesystem, bucket) == NEW
    third = begin(bucket, OLD, attempt=2)
    move = filesystem.mv
    seen: list[set[str]] = []

    def watch(source: str, target: str) -> None:
        names = {path.rpartition("/")[2] for path in filesystem.find("/delivered/model")}
        there = {name for name in names if filesystem.exists(f"/delivered/model/{name}")}
        seen.append(there & set(FIRST_READ))
        move(source, target)

    monkeypatch.setattr(filesystem, "mv", watch)
    third.publish()
    assert seen
    assert not any(seen), "no reader can take some of each for a model"
    third.clean_up()
    assert found(filesystem, bucket) == OLD


def test_an_upload_that_fails_leaves_what_was_there(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filesystem = fsspec.filesystem("memory")
    deliver(bucket, OLD, attempt=0)
    delivery = delivery_to(bucket, term=Term.by_hand(1), token="0a")
    delivery.begin()
    (delivery.directory / "config.json").write_text("new")

    def lose(_source: str, target: str, **_how: Any) -> None:
        filesystem.pipe_file(f"{target}/config.json", b"half")
        raise ConnectionError("the store went away")

    monkeypatch.setattr(filesystem, "put", lose)
    with pytest.raises(ConnectionError):
        delivery.settle()
    delivery.clean_up()
    assert found(filesystem, bucket) == OLD
    assert not delivery.directory.exists()


def test_an_attempt_that_was_replaced_while_it_wrote_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*args: Any) -> None:
        export(*args)
        Fence(tmp_path / "checkpoints", Term.by_hand(2)).announce()

    monkeypatch.setattr("troika_trainer.finish.export", slow)
    with pytest.raises(CommunicationError, match="attempt 2 has taken over"):
        train_here(pretrain_run(tmp_path, training={"steps": 1}), place=Place(attempt=1))
    assert not list(tmp_path.glob("*model*"))
