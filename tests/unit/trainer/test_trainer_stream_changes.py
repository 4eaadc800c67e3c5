"""What may change in a corpus while a stream is in the middle of it, and what may not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.streams import TEXTS, Reading, stream_run
from troika_api.v1alpha1.data import TokenizerTraining
from troika_api.v1alpha1.run import PretrainRun
from troika_trainer.errors import DataError
from troika_trainer.tokenizer import train_tokenizer


def test_other_files_than_those_of_the_checkpoint_are_refused(
    tmp_path: Path, tokenizer: Any
) -> None:
    run = stream_run(tmp_path)
    reading = Reading(run, tokenizer, window=4)
    reading.sequences(0, 40)
    saved = reading.stream.position(40)
    (tmp_path / "corpus" / "d.csv").write_text("text\nnew\n")
    again = Reading(stream_run(tmp_path), tokenizer, window=4)
    with pytest.raises(DataError, match=r"not those that were there at step 9") as caught:
        again.stream.seek(saved, step=9)
    assert caught.value.remedy


def write_lines(folder: Path, name: str, texts: list[str]) -> None:
    path = folder / "corpus" / name
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def run_on_lines(folder: Path, **files: list[str]) -> PretrainRun:
    """A run on JSONL files, which have a line for each text."""
    run = stream_run(folder)
    for file in (folder / "corpus").iterdir():
        file.unlink()
    for name, texts in files.items():
        write_lines(folder, f"{name}.jsonl", texts)
    return run


MANY = TEXTS * 10


def cut_at(run: PretrainRun, tokenizer: Any, used: int, window: int) -> tuple[dict[str, Any], int]:
    """What a checkpoint says when so much was used, and the last line that was read for it."""
    reading = Reading(run, tokenizer, window=window)
    reading.sequences(0, used)
    saved = json.loads(json.dumps(reading.stream.position(used)))
    return saved, saved["read"]["end"]["line"]


@pytest.mark.parametrize("used", [3000, 3200])
def test_rows_that_were_not_read_yet_may_be_corrected(
    tmp_path: Path, tokenizer: Any, used: int
) -> None:
    run = run_on_lines(tmp_path, a=MANY)
    whole = Reading(run, tokenizer, window=400)
    expected = whole.sequences(used, 3200) if used < 3200 else []
    saved, line = cut_at(run, tokenizer, used, 400)
    assert 1000 <= line < 2000
    write_lines(tmp_path, "a.jsonl", [*MANY[: line + 1000], "a corrected row", *MANY[:50]])
    again = Reading(run, tokenizer, window=400)
    again.stream.seek(saved, step=9)
    assert (again.sequences(used, 3200) if used < 3200 else []) == expected
    rest = tokenizer.decode(np.concatenate(again.sequences(3200, 9000)))
    assert "a corrected row" in rest
    later = json.loads(json.dumps(again.stream.position(9000)))
    Reading(run, tokenizer, window=400).stream.seek(later, step=12)


@pytest.mark.parametrize("row", [0, 700, 1001])
def test_rows_that_were_read_may_not_change(tmp_path: Path, tokenizer: Any, row: int) -> None:
    run = run_on_lines(tmp_path, a=MANY)
    saved, line = cut_at(run, tokenizer, 3000, 400)
    assert row < line + 2
    write_lines(tmp_path, "a.jsonl", [*MANY[:row], "another row", *MANY[row + 1 :]])
    with pytest.raises(DataError, match=r"at step 9: rows of .*a\.jsonl that were read") as caught:
        Reading(run, tokenizer, window=400).stream.seek(saved, step=9)
    assert f"a.jsonl, line {line}" in str(caught.value.remedy)


def test_only_a_file_that_is_ahead_may_change(tmp_path: Path, tokenizer: Any) -> None:
    run = run_on_lines(tmp_path, a=MANY, b=MANY, c=MANY)
    reading = Reading(run, tokenizer, window=400)
    order = [Path(file.path).name for file in reading.stream._lap(0)]
    used = 9000
    reading.sequences(used - 1, used)
    saved = json.loads(json.dumps(reading.stream.position(used)))
    assert saved["path"].endswith(order[1])
    write_lines(tmp_path, order[2], ["short"])
    Reading(run, tokenizer, window=400).stream.seek(saved, step=9)
    write_lines(tmp_path, order[0], ["short"])
    with pytest.raises(DataError, match=rf"a file that was read before .*{order[1]} has another"):
        Reading(run, tokenizer, window=400).stream.seek(saved, step=9)


def test_a_window_that_has_all_files_allows_no_change(tmp_path: Path, tokenizer: Any) -> None:
    run = run_on_lines(tmp_path, a=TEXTS, b=TEXTS)
    saved, _ = cut_at(run, tokenizer, 40, 4000)
    write_lines(tmp_path, "b.jsonl", ["short"])
    with pytest.raises(DataError, match="the current window has rows of all files"):
        Reading(run, tokenizer, window=4000).stream.seek(saved, step=9)


def test_another_tokenizer_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    run = run_on_lines(tmp_path, a=TEXTS)
    saved, _ = cut_at(run, tokenizer, 40, 4)
    spec = TokenizerTraining(vocab_size=280)
    other = train_tokenizer(lambda: TEXTS, spec, algorithm="ByteLevelBPE", bidirectional=False)
    with pytest.raises(DataError, match="another tokenizer"):
        Reading(run, other, window=4).stream.seek(saved, step=9)
