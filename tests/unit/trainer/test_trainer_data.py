"""Rows are read from any format, and a bad one is named with file, line and column."""

import errno
import fcntl
import gzip
import json
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
import torch
from pyarrow import parquet

from support.trainer_runs import finetune_run, pretrain_run, train_here
from troika_api.v1alpha1.data import FileFormat
from troika_api.v1alpha1.run import RUN
from troika_trainer import integrity, shards
from troika_trainer.data import fingerprint, make_directory
from troika_trainer.distributed import Group
from troika_trainer.errors import DataError, StorageError
from troika_trainer.place import Place
from troika_trainer.prepare import Cache
from troika_trainer.rows import find_files, read_rows
from troika_trainer.shards import ColumnType, Store, Writer
from troika_trainer.sources import Sources

ROWS = [{"text": "Grüße, Welt", "n": 1}, {"text": 'two\nlines and "quotes"', "n": 2}]


def calm() -> None:
    """Nobody has to know."""


def read(uri: str, kind: FileFormat = FileFormat.AUTO) -> list[dict[str, Any]]:
    return [row.values for file in find_files(uri, kind) for row in read_rows(file)]


def write_parquet(path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(ROWS), path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.jsonl": lambda path: path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n"),
    "a.jsonl.gz": lambda path: path.write_bytes(
        gzip.compress("\n".join(json.dumps(row) for row in ROWS).encode())
    ),
    "a.csv": lambda path: path.write_text(
        'text,n\n"Grüße, Welt",1\n"two\nlines and ""quotes""",2\n'
    ),
    "a.tsv": lambda path: path.write_text(
        'text\tn\nGrüße, Welt\t1\n"two\nlines and ""quotes"""\t2\n'
    ),
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    rows = read(str(tmp_path / name))
    assert [(row["text"], int(row["n"])) for row in rows] == [(r["text"], r["n"]) for r in ROWS]


def test_each_line_of_plain_text_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n  two  \n")
    assert read(str(tmp_path / "a.txt")) == [{"text": "one"}, {"text": "two"}]


def test_globs_folders_and_other_file_systems(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "notes.md"):
        (tmp_path / name).write_text('{"text": "' + name + '"}\n')
    expected = [{"text": "a.jsonl"}, {"text": "b.jsonl"}]
    assert read(f"{tmp_path}/*.jsonl") == expected
    assert read(str(tmp_path)) == expected
    assert read(f"file://{tmp_path}/*.jsonl") == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": 1}\n', "line 1, column 'text': expected text, got int 1"),
        (
            "a.jsonl",
            '{"text": "x"}\n{"text": null}\n',
            "line 2, column 'text': expected text, got nothing",
        ),
        ("a.jsonl", '{"body": "x"}\n', "line 1: no column 'text'; there are 'body'"),
        ("a.jsonl", '{"text": "x"}\n{oops\n', "line 2: expected one JSON object a line: "),
        ("a.jsonl", '["x"]\n', 'line 1: expected a JSON object, got list ["x"]'),
        ("a.csv", "text,label\nx\n", "line 2: expected 2 fields, got 1"),
        ("a.csv", 'text\nx\n"x"y\n', "line 3: ',' expected after '\"'"),
        (
            "a.csv",
            'text\nx\n"open\n"y"\n',
            "line 4, in a row that begins in line 3: ',' expected after '\"'",
        ),
        (
            "a.csv",
            'text\nx\n"open\ny\n',
            "line 3: expected a closing quote before the end of the file",
        ),
        ("a.csv", '"open\n', "line 1: expected a closing quote before the end of the file"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    rows = (row for f in find_files(str(tmp_path / name), FileFormat.AUTO) for row in read_rows(f))
    with pytest.raises(DataError) as caught:
        list(row.text("text") for row in rows)  # noqa: C400
    assert str(caught.value).startswith(f"{tmp_path / name}, {message}")
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", b"no gzip", "as JSONL: "),
        ("a.jsonl.gz", gzip.compress(b"x" * 99, mtime=0)[:-9], "as JSONL: "),
        ("a.parquet", b"no parquet", "as Parquet: "),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(str(tmp_path / name))
    assert f"cannot read {tmp_path / name} {message}" in str(caught.value)


GOOD = {
    "a.jsonl": '{"text": "Grüße, Welt"}\n',
    "a.jsonl.gz": '{"text": "Grüße, Welt"}\n',
    "a.txt": "Grüße, Welt\n",
    "a.csv": '"Grüße\nWelt"\n',
}
"""Rows, each with more bytes than characters."""


@pytest.mark.parametrize("bad", [b"\xff", b"\xe2\x82", b"\xed\xa0\x80"])
@pytest.mark.parametrize("name", GOOD)
def test_a_byte_that_is_no_text_is_named_with_its_line(
    tmp_path: Path, name: str, bad: bytes
) -> None:
    good = GOOD[name].encode()
    content = b"\xef\xbb\xbf" + good * 3000 + b"ab" + bad + b"\n" + good * 3
    packed = gzip.compress(content) if name.endswith(".gz") else content
    (tmp_path / name).write_bytes(packed)
    with pytest.raises(DataError) as caught:
        read(str(tmp_path / name))
    line = 3000 * good.count(b"\n") + 1
    assert str(caught.value) == (
        f"{tmp_path / name}, line {line}, character 3: expected UTF-8, got byte 0x{bad[0]:02x}"
    )
    assert caught.value.remedy


def test_a_cell_of_parquet_that_is_no_text_is_named(tmp_path: Path) -> None:
    rows = [b"fine"] * 1500 + [b"a\xff"] + [b"fine"]
    column = pa.Array.from_buffers(pa.string(), len(rows), pa.array(rows, pa.binary()).buffers())
    parquet.write_table(pa.table({"n": [1] * len(rows), "text": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        read(str(tmp_path / "a.parquet"))
    assert str(caught.value) == (
        f"{tmp_path / 'a.parquet'}, line 1501, column 'text': expected UTF-8, got byte 0xff"
    )


def test_no_file_and_no_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches .*/none/\*\.csv"):
        read(f"{tmp_path}/none/*.csv")
    (tmp_path / "a.dat").write_text("x")
    with pytest.raises(DataError, match=r"a\.dat: the ending does not tell the format"):
        read(str(tmp_path / "a.dat"))
    assert read(str(tmp_path / "a.dat"), FileFormat.TEXT) == [{"text": "x"}]
    with pytest.raises(DataError, match="cannot read nosuch://x"):
        read("nosuch://x")


def test_storage_that_fails_is_not_called_bad_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    files = find_files(str(tmp_path / "a.jsonl"), FileFormat.AUTO)

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(files[0].filesystem, "open", fail)
    with pytest.raises(StorageError, match=r"cannot read .*a\.jsonl: .*Input/output error"):
        list(read_rows(files[0]))


def label_error(tmp_path: Path, split: str, content: str) -> str:
    run = finetune_run(tmp_path, model=tmp_path)
    (tmp_path / f"{split}.csv").write_text(content)
    train_here_tokenizer(tmp_path)
    with pytest.raises(DataError) as caught:
        train_here(run)
    return str(caught.value)


def train_here_tokenizer(folder: Path) -> None:
    train_here(pretrain_run(folder / "base", training={"steps": 1}))
    for file in (folder / "base" / "model").iterdir():
        file.rename(folder / file.name)


def test_a_label_that_training_has_not_seen(tmp_path: Path) -> None:
    assert label_error(tmp_path, "test", "text,label\nfine,good\nfine,odd\n") == (
        f"{tmp_path / 'test.csv'}, line 3, column 'label': label 'odd' is not among those of the "
        "training split: bad, good"
    )


def test_a_split_without_rows(tmp_path: Path) -> None:
    message = label_error(tmp_path, "validation", "text,label\n")
    assert message == f"the validation split has no rows: {tmp_path / 'validation.csv'} gave none"


def test_training_without_rows(tmp_path: Path) -> None:
    message = label_error(tmp_path, "train", "text,label\n")
    assert message == f"the train split has no rows: {tmp_path / 'train.csv'} gave none"


def test_a_single_class(tmp_path: Path) -> None:
    message = label_error(tmp_path, "train", "text,label\nfine,good\n")
    assert message == "the training split has 1 class(es) in column 'label': good"


def test_held_out_rows_stay_held_out_whatever_joins_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"row {number}"}) for number in range(400)]
    run = RUN.validate_python(
        pretrain_run(tmp_path, data={"train": {"uri": str(path), "format": "Auto"}})
    )
    sides = []
    for part in (lines[:200], lines):
        path.write_text("\n".join(part))
        sources = Sources.of(run)
        sides.append([{row.values["text"] for row in sources.rows(s)} for s in sources.splits])
    (train, held), (more_train, more_held) = sides
    assert train <= more_train
    assert held <= more_held
    assert not more_train & more_held
    assert 20 < len(more_held) < 60, "about a tenth"


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


def test_portions_depend_on_sizes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, size in enumerate((5, 1, 1, 9, 2, 2, 2)):
        (tmp_path / f"{number}.txt").write_text("x" * size)
    changes = {"train": {"uri": str(tmp_path)}, "validation": {"fraction": 0.1}}
    found = Sources.of(RUN.validate_python(pretrain_run(tmp_path, data=changes)))

    def cut() -> list[str]:
        return [
            "".join(Path(file.path).stem for file in part.train) for part in found.portions("train")
        ]

    monkeypatch.setattr("troika_trainer.sources.SMALLEST_PORTION", 4)
    assert cut() == ["0", "123", "45", "6"]
    monkeypatch.setattr("troika_trainer.sources.MOST_PORTIONS", 2)
    assert cut() == ["0123", "456"]


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
