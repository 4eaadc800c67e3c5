"""A set is put in place whole, once, and the manifest tells when it is stale."""

from pathlib import Path

import pytest

from data.errors import DataError, expect
from data.files import made, make, write_csv, write_jsonl


def build(out: Path) -> list[str]:
    write_jsonl(out / "a" / "train.jsonl", [{"text": "é\u2028"}, {"text": "two"}])
    write_csv(out / "test.csv", ("text", "label"), [("a, \n b", "x")])
    return ["package 1"]


def test_made_once_then_found(tmp_path: Path) -> None:
    files = make(tmp_path / "set", "rule", build)
    assert files["a/train.jsonl"]["rows"] == 2
    assert files["test.csv"]["rows"] == 1
    assert made(tmp_path / "set", "rule") == files
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_another_rule_or_a_lost_file_means_not_made(tmp_path: Path) -> None:
    make(tmp_path / "set", "rule", build)
    assert not made(tmp_path / "set", "another rule")
    make(tmp_path / "set", "another rule", build)
    (tmp_path / "set" / "test.csv").unlink()
    assert not made(tmp_path / "set", "another rule")
    assert not made(tmp_path / "never", "rule")


def test_a_failed_build_leaves_the_old_set(tmp_path: Path) -> None:
    files = make(tmp_path / "set", "rule", build)

    def fail(out: Path) -> list[str]:
        write_jsonl(out / "half.jsonl", [])
        raise DataError("no such package")

    with pytest.raises(DataError):
        make(tmp_path / "set", "rule", fail)
    assert made(tmp_path / "set", "rule") == files
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_expect_names_the_package_and_the_numbers() -> None:
    expect("a package", "rows", 10, 10)
    with pytest.raises(DataError, match=r"a package: expected at least 1,000 rows, found 9"):
        expect("a package", "rows", 9, 1_000)
