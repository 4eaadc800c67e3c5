"""What was tokenized once is kept: whole or not there, sound or made again, for later jobs too."""

import errno
import fcntl
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from support.trainer_runs import calm, pretrain_run, train_here
from troika_trainer import integrity, shards
from troika_trainer.data import fingerprint, make_directory
from troika_trainer.distributed import Group
from troika_trainer.errors import DataError, StorageError
from troika_trainer.place import Place
from troika_trainer.prepare import Cache
from troika_trainer.shards import ColumnType, Store, Writer


def test_a_store_gives_back_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ITEMS", 10)
    examples = [
        {"ids": np.arange(length), "label": np.asarray(length)} for length in (3, 0, 8, 5, 11, 2)
    ]
    writer = Writer(
        tmp_path, {"ids": ColumnType("uint16"), "label": ColumnType("int32", ragged=False)}
    )
    writer.add(examples[:4])
    writer.add(examples[4:])
    writer.close({"rows": 6})
    store = Store(tmp_path)
    assert (len(store), store.facts) == (6, {"rows": 6})
    assert [store["ids"][i].tolist() for i in range(6)] == [e["ids"].tolist() for e in examples]
    assert [int(store["label"][i]) for i in range(6)] == [3, 0, 8, 5, 11, 2]
    assert store["ids"].lengths.tolist() == [3, 0, 8, 5, 11, 2]
    flat = np.concatenate([e["ids"] for e in examples])
    assert store["ids"].items == len(flat)
    for start in range(0, 29, 3):
        assert store["ids"].slice(start, start + 7).tolist() == flat[start : start + 7].tolist()
    assert len(list(tmp_path.glob("ids.0*.bin"))) == 3, "the column spans files"


def test_a_directory_that_could_not_be_filled_is_not_there(tmp_path: Path) -> None:
    def fail(staged: Path) -> None:
        (staged / "half").write_text("x")
        raise DataError("no")

    with pytest.raises(DataError):
        make_directory(tmp_path / "data", fail, calm)
    assert [path.name for path in tmp_path.iterdir()] == [".data.lock"]
    make_directory(tmp_path / "data", lambda _: None, calm)
    make_directory(tmp_path / "data", fail, calm)


def test_who_comes_second_waits_and_takes_what_the_first_has_made(tmp_path: Path) -> None:
    made: list[Path] = []
    begun, waiting = threading.Event(), threading.Event()

    def fill(staged: Path) -> None:
        made.append(staged)
        begun.set()
        assert waiting.wait(60)

    first = threading.Thread(target=make_directory, args=(tmp_path / "data", fill, calm))
    first.start()
    assert begun.wait(60)
    make_directory(tmp_path / "data", fill, waiting.set)
    first.join()
    assert len(made) == 1
    assert (tmp_path / "data").is_dir()


def test_what_is_there_can_be_used_while_somebody_holds_the_lock(tmp_path: Path) -> None:
    make_directory(tmp_path / "data", lambda _: None, calm)
    with (tmp_path / ".data.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def waiting() -> None:
            raise AssertionError("it waits")

        make_directory(tmp_path / "data", lambda _: None, waiting)


def test_what_was_left_of_a_killed_one_goes(tmp_path: Path) -> None:
    left = tmp_path / ".data.tmp-123-abc"
    left.mkdir()
    (left / "half").write_text("x")
    make_directory(tmp_path / "data", lambda _: None, calm)
    assert not left.exists()


def test_without_locks_two_make_the_same_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("troika_trainer.data.fcntl.flock", no_locks)

    def slow(staged: Path) -> None:
        (staged / "rows").write_text("same")
        make_directory(tmp_path / "data", quick, calm)  # somebody is faster

    def quick(staged: Path) -> None:
        (staged / "rows").write_text("same")

    make_directory(tmp_path / "data", slow, calm)
    assert (tmp_path / "data" / "rows").read_text() == "same"
    assert not list(tmp_path.glob(".data.tmp-*"))


def damaged(directory: Path, *, as_large: bool) -> list[str]:
    """What is said of a directory with a damaged file: by reading it, and by sizes alone."""
    make_directory(directory, lambda staged: write(staged / "rows", b"sound" * 100), calm)
    write(directory / "rows", b"other" * (100 if as_large else 99))
    return [
        str(integrity.broken(directory, thorough=thorough, alive=calm))
        for thorough in (True, False)
    ]


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def test_what_was_cut_short_is_found_without_reading_it(tmp_path: Path) -> None:
    rows = tmp_path / "data" / "rows"
    said = f"{rows} is damaged: 495 bytes instead of 500"
    assert damaged(tmp_path / "data", as_large=False) == [said, said]
    rows.unlink()
    gone = integrity.broken(tmp_path / "data", thorough=False, alive=calm)
    assert gone == f"{rows} is missing: No such file or directory"


def test_what_was_changed_is_found_by_reading_it(tmp_path: Path) -> None:
    said = f"{tmp_path / 'data' / 'rows'} is damaged: its SHA-256 has changed"
    assert damaged(tmp_path / "data", as_large=True) == [said, "None"]


def test_reading_a_directory_is_progress_and_only_its_sizes_are_not_read(tmp_path: Path) -> None:
    signs: list[str] = []
    progress = partial(signs.append, "read")
    make_directory(tmp_path / "data", lambda staged: write(staged / "rows", b"sound"), progress)
    assert signs == ["read"], "as it is sealed"
    make_directory(tmp_path / "data", lambda _: None, progress, thorough=False)
    assert signs == ["read"]
    make_directory(tmp_path / "data", lambda _: None, progress)
    assert signs == ["read"] * 2


def test_the_first_start_of_a_job_reads_its_cache_and_later_ones_ask_for_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def seen(*_: object, thorough: bool, **__: object) -> None:
        asked.append(thorough)

    monkeypatch.setattr("troika_trainer.data.make_directory", seen)
    for place in (Place(), Place(attempt=1), Place(restart=1)):
        group = Group(place, torch.device("cpu"))
        Cache(tmp_path, tmp_path, group, calm).once("data", lambda _: None)
    assert asked == [True, False, False]


def test_a_full_disk_is_said_with_its_place(tmp_path: Path) -> None:
    def fill(_staged: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError) as caught:
        make_directory(tmp_path / "data", fill, calm)
    assert str(caught.value).startswith(
        f"cannot write {tmp_path / 'data'}: No space left on device ("
    )
    assert "data.cache.uri" in (caught.value.remedy or "")


def test_another_job_uses_what_the_first_has_tokenized(tmp_path: Path) -> None:
    cache = {"uri": str(tmp_path / "cache")}
    runs = [
        pretrain_run(tmp_path / name, data={"cache": cache}, training={"steps": 1, "seed": seed})
        for seed, name in enumerate(("first", "second"))
    ]
    train_here(runs[0])
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    assert {path.name.partition("-")[0] for path in (tmp_path / "cache").glob("[!.]*")} == {
        "tokenizer",
        "data",
    }
    train_here(runs[1])
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    assert {path: at for path, at in after.items() if not path.name.endswith(".lock")} == {
        path: at for path, at in made.items() if not path.name.endswith(".lock")
    }
    assert not (tmp_path / "second" / "checkpoints" / "cache").exists()


def test_rows_of_another_length_are_made_of_the_same_tokens(tmp_path: Path) -> None:
    stores, made = tmp_path / "cache", []
    for number, length in enumerate((32, 32, 16)):
        data = {"packing": True, "sequenceLength": length, "cache": {"uri": str(stores)}}
        train_here(pretrain_run(tmp_path / str(number), data=data, training={"steps": 1}))
        made.append({path: path.stat().st_mtime_ns for path in stores.glob("rows-*/*/*.npy")})
    assert len(list(stores.glob("data-*"))) == 1
    assert made[0] == made[1], "packed once"
    assert len(made[2]) == 2 * len(made[1])


def test_a_cache_needs_a_file_system(tmp_path: Path) -> None:
    run = pretrain_run(tmp_path, data={"cache": {"uri": "s3://bucket/cache"}})
    with pytest.raises(StorageError, match=r"data\.cache\.uri s3://bucket/cache: expected"):
        train_here(run)


def test_fingerprints_differ_with_what_made_them() -> None:
    assert fingerprint(["a", 1, "x"], "t") == fingerprint(["a", 1, "x"], "t")
    assert len({fingerprint(["a", size, "x"], words) for size in (1, 2) for words in "tu"}) == 4


def test_data_is_tokenized_once_and_again_when_it_changes(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    run = pretrain_run(
        tmp_path, data={"train": {"uri": str(text)}, "validation": {"fraction": None}}
    )
    run["data"]["validation"] = {"uri": str(text)}
    run["training"]["steps"] = 1
    stores = tmp_path / "checkpoints" / "cache"
    train_here(run)
    first = {path: path.stat().st_mtime_ns for path in stores.glob("*/*/index.json")}
    train_here(run)
    assert {path: path.stat().st_mtime_ns for path in stores.glob("*/*/index.json")} == first
    text.write_text("pack my box with five dozen liquor jugs\n" * 200)
    with pytest.raises(DataError, match=r"step-1 is of another run: data\.train, or what"):
        train_here(run)
    assert len(list(stores.glob("data-*"))) == 2
