"""Rows are read out of object stores with what the image has, given the usual variables."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from pyarrow import parquet

from support.bucket import served
from support.trainer_runs import pretrain_run
from troika_api.v1alpha1.data import FileFormat
from troika_api.v1alpha1.run import RUN
from troika_trainer import preview, stores
from troika_trainer.errors import ConfigError, DataError, StorageError
from troika_trainer.rows import find_files, read_rows

KEY = "AKIAEXAMPLE"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder behind s3://corpus."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with served(tmp_path, key=KEY) as endpoint:
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        stores.ObjectStore.clear_instance_cache()  # those of another test know another endpoint
        yield folder


def _texts(uri: str) -> list[str]:
    files = find_files(uri, FileFormat.AUTO)
    return [row.text("text") for file in files for row in read_rows(file)]


def test_files_of_a_bucket_are_found_by_pattern_by_folder_and_by_name(bucket: Path) -> None:
    for name in ("web/a/1.jsonl", "web/b/2.jsonl", "web/b/readme", "other/3.jsonl"):
        (bucket / name).parent.mkdir(parents=True, exist_ok=True)
        (bucket / name).write_text(f'{{"text": "{name}"}}\n')
    both = ["web/a/1.jsonl", "web/b/2.jsonl"]
    assert _texts("s3://corpus/web/**/*.jsonl") == both
    assert _texts("s3://corpus/web") == both
    assert _texts("s3://corpus/web/b/2.jsonl") == both[1:]


def test_every_format_is_read_from_a_bucket(bucket: Path) -> None:
    words = [f"{'x' * 100}{number}" for number in range(2000)]
    (bucket / "1.txt").write_text("\n".join(words))
    (bucket / "2.csv").write_text("\n".join(["text", *words]))
    parquet.write_table(pa.table({"text": words}), bucket / "3.parquet", row_group_size=500)
    assert _texts("s3://corpus/*") == words * 3


def test_what_a_row_points_at_is_read_beside_it(bucket: Path) -> None:
    (bucket / "train").mkdir()
    (bucket / "train/metadata.jsonl").write_text('{"image": "1.png"}\n')
    (bucket / "train/1.png").write_bytes(b"picture")
    [file] = find_files("s3://corpus/train/metadata.jsonl", FileFormat.AUTO)
    assert [row.content("image") for row in read_rows(file)] == [b"picture"]


def test_another_process_reads_on(bucket: Path) -> None:
    (bucket / "1.txt").write_text("words")
    [file] = find_files("s3://corpus/1.txt", FileFormat.AUTO)
    [row] = read_rows(pickle.loads(pickle.dumps(file)))
    assert row.text("text") == "words"


def test_a_file_that_is_not_there_is_the_users_to_correct(bucket: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches s3://corpus/nothing\.csv"):
        find_files("s3://corpus/nothing.csv", FileFormat.AUTO)


@pytest.mark.usefixtures("bucket")
def test_a_store_that_refuses_says_which_variables_open_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    stores.ObjectStore.clear_instance_cache()
    with pytest.raises(StorageError, match=r"cannot read s3://corpus/\*\.txt") as caught:
        find_files("s3://corpus/*.txt", FileFormat.AUTO)
    assert "ACCESS_DENIED" in str(caught.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value.remedy)


@pytest.mark.usefixtures("bucket")
def test_a_store_that_does_not_answer_now_is_left_to_the_ranks_who_ask_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    stores.ObjectStore.clear_instance_cache()
    data = {"train": {"uri": "s3://corpus/*.txt"}}
    preview.look(RUN.validate_python(pretrain_run(tmp_path, data=data)))
    assert "could not look at the data: cannot read s3://corpus/*.txt" in caplog.text


def test_azure_is_asked_for_with_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(ConfigError, match="AZURE_STORAGE_ACCOUNT_NAME is not set"):
        find_files("abfs://corpus/*.txt", FileFormat.AUTO)


@pytest.mark.parametrize("scheme", ["s3", "gs", "abfs"])
def test_the_image_has_a_client_for_every_store_that_the_api_takes(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    filesystem, path = stores.find(f"{scheme}://corpus/web/")
    assert (filesystem.protocol, path) == ({"gs": "gcs"}.get(scheme, scheme), "corpus/web")
