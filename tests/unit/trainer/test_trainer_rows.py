"""Rows are read from any format, and a bad one is named with file, line and column."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from pyarrow import parquet

from support.trainer_runs import finetune_run, pretrain_run, train_here
from troika_api.v1alpha1.data import FileFormat
from troika_api.v1alpha1.run import RUN
from troika_trainer.errors import DataError, StorageError
from troika_trainer.rows import find_files, read_rows
from troika_trainer.sources import Sources

ROWS = [{"text": "Grüße, Welt", "n": 1}, {"text": 'two\nlines and "quotes"', "n": 2}]


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
