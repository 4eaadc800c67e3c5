"""A stream is the corpus again and again; where it goes on is known without reading it anew."""

import gzip
import json
from itertools import chain, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from pyarrow import parquet

from support.trainer_runs import TINY_BERT, pretrain_run, train_here
from troika_api.v1alpha1.data import FileFormat, TokenizerTraining
from troika_api.v1alpha1.run import RUN, PretrainRun
from troika_trainer.batches import Batches, StreamOrder
from troika_trainer.errors import ConfigError, DataError, TerminatedError
from troika_trainer.place import Place
from troika_trainer.rows import find_files, read_rows
from troika_trainer.runfile import read_run
from troika_trainer.shards import Store
from troika_trainer.shutdown import StopSignal
from troika_trainer.sources import Sources
from troika_trainer.stream import TEXT, Stream, held_out
from troika_trainer.tasks import Task, task_class
from troika_trainer.tokenizer import train_tokenizer

LENGTH = 8
TEXTS = [f"row {number} " + "and so on " * (number % 7) for number in range(300)]


def write_corpus(folder: Path) -> str:
    """Three files of three formats, one of them with empty rows."""
    folder.mkdir(exist_ok=True)
    first, second, third = TEXTS[:90], [*TEXTS[90:200], "  "], TEXTS[200:]
    with gzip.open(folder / "a.jsonl.gz", "wt") as file:
        file.write("\n".join(json.dumps({"text": text}) for text in first) + "\n\n")
    table = pa.Table.from_pylist([{"text": text} for text in second])
    parquet.write_table(table, folder / "b.parquet", row_group_size=30)
    (folder / "c.csv").write_text("text\n" + "\n".join(third))
    return f"{folder}/*"


def make_run(folder: Path, **data: Any) -> PretrainRun:
    spec = {"train": {"uri": write_corpus(folder / "corpus"), "format": "Auto"}, **data}
    changes = {"sequenceLength": LENGTH, "streaming": True, **spec}
    run = pretrain_run(folder, objective="CausalLM", data=changes)
    made = RUN.validate_python(run)
    assert isinstance(made, PretrainRun)
    return made


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    spec = TokenizerTraining(vocab_size=300)
    return train_tokenizer(lambda: TEXTS, spec, algorithm="ByteLevelBPE", bidirectional=False)


STREAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "masks": ("MaskedLM", {**TINY_BERT, "hidden_dropout_prob": 0.2}),
    "spans": (
        "Denoising",
        {
            "model_type": "t5",
            "d_model": 32,
            "d_ff": 64,
            "d_kv": 16,
            "num_layers": 1,
            "num_heads": 2,
            "dropout_rate": 0.2,
        },
    ),
    "infilling": (
        "Denoising",
        {
            "model_type": "bart",
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 64,
            "dropout": 0.2,
        },
    ),
}
"""Objectives that draw their noise by the number of a sequence, in a stream too."""


def calm() -> None:
    """Nobody has to know."""


class Reading:
    """A task that counts the rows that it turns to tokens, and its stream."""

    def __init__(self, run: PretrainRun, tokenizer: Any, *, window: int) -> None:
        self.rows = 0
        self.task: Task = task_class(run)(run, tokenizer)
        encode = self.task.encode

        def counting(rows: Any) -> Any:
            self.rows += len(rows)
            return encode(rows)

        self.task.encode = counting  # type: ignore[method-assign]
        self.stream = Stream(
            self.task, Sources.of(run), window=window, length=LENGTH, seed=17, alive=calm
        )

    def sequences(self, start: int, stop: int) -> list[list[int]]:
        at = (number * LENGTH for number in range(start, stop))
        return [self.stream.slice(token, token + LENGTH).tolist() for token in at]


def test_a_stream_is_the_rows_of_all_files_lap_after_lap(tmp_path: Path, tokenizer: Any) -> None:
    run = make_run(tmp_path, validation={"uri": str(tmp_path / "corpus/c.csv"), "fraction": None})
    reading = Reading(run, tokenizer, window=5)
    end = tokenizer.eos_token_id
    ids = [[*tokenizer(text)["input_ids"], end] for text in TEXTS]
    files = [list(chain.from_iterable(part)) for part in (ids[:90], ids[90:200], ids[200:])]
    size = sum(map(len, files))
    orders = set()
    for lap in range(4):
        found = reading.sequences(lap * size // LENGTH, (lap + 1) * size // LENGTH + 1)
        tokens = list(chain.from_iterable(found))[lap * size % LENGTH :][:size]
        order = next(
            order
            for order in permutations(range(3))
            if list(chain.from_iterable(files[number] for number in order)) == tokens
        )
        orders.add(order)
    assert len(orders) > 1, "another order in another lap"


@pytest.mark.parametrize("window", [1, 7, 64, 2000])
def test_a_stream_goes_on_where_a_checkpoint_says(
    tmp_path: Path, tokenizer: Any, window: int
) -> None:
    run = make_run(tmp_path, validation={"fraction": 0.2})
    whole = Reading(run, tokenizer, window=window)
    for used in (0, 3, 64, 500, 1500):
        whole.sequences(max(used - 1, 0), used)
        saved = json.loads(json.dumps(whole.stream.position(used)))
        ahead = whole.sequences(used, used + 30)
        again = Reading(run, tokenizer, window=window)
        again.stream.seek(saved, step=1)
        assert again.sequences(used, used + 30) == ahead


def test_going_on_costs_a_window_however_far_the_run_is(tmp_path: Path, tokenizer: Any) -> None:
    run = make_run(tmp_path)
    whole = Reading(run, tokenizer, window=16)
    costs = []
    for used in (160, 16000):
        whole.sequences(used, used + 1)
        again = Reading(run, tokenizer, window=16)
        again.stream.seek(whole.stream.position(used), step=1)
        again.sequences(used, used + 1)
        again.stream._pool.shutdown()  # the window that is read ahead
        costs.append(again.rows)
    assert max(costs) <= 2 * len(TEXTS) < whole.rows / 10


def test_an_older_window_can_be_read_again(tmp_path: Path, tokenizer: Any) -> None:
    reading = Reading(make_run(tmp_path), tokenizer, window=4)
    first = reading.sequences(0, 9)
    reading.sequences(400, 401)
    assert reading.sequences(0, 9) == first


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_ranks_together_have_the_same_sequences_whatever_their_number(
    tmp_path: Path, tokenizer: Any, ranks: int
) -> None:
    order = StreamOrder(size=12, batch=8, seed=3)
    run = make_run(tmp_path)
    seen: list[list[list[int]]] = [[] for _ in range(7)]
    for rank in range(ranks):
        reading = Reading(run, tokenizer, window=12)
        examples = reading.task.examples(Store.of({TEXT: reading.stream}, {}))
        place = Place(rank=rank, world_size=ranks)
        batches = Batches(examples, order, place=place, limit=2 * LENGTH)
        for step in range(1, 8):
            for batch in batches.step(step):
                seen[step - 1] += batch.inputs["input_ids"].tolist()
    whole = Reading(run, tokenizer, window=12)
    for step, found in enumerate(seen, start=1):
        indices, epochs = order.step(step)
        assert not epochs.any()
        expected = [whole.sequences(int(index), int(index) + 1)[0] for index in indices]
        assert sorted(found) == sorted(expected)


def test_a_window_is_shuffled_and_none_is_left_out() -> None:
    order = StreamOrder(size=12, batch=8, seed=3)
    drawn = np.concatenate([order.step(step)[0] for step in range(1, 7)])
    assert sorted(drawn.tolist()) == list(range(48))
    assert all(sorted(drawn[at : at + 12]) == list(range(at, at + 12)) for at in (0, 12, 24, 36))
    assert drawn.tolist() != sorted(drawn.tolist())
    assert drawn[12:24].tolist() != [12 + number for number in drawn[:12]]


def test_held_out_rows_are_in_no_window(tmp_path: Path, tokenizer: Any) -> None:
    run = make_run(tmp_path, validation={"fraction": 0.2})
    reading = Reading(run, tokenizer, window=4)
    sources = Sources.of(run)
    store = held_out(reading.task, sources, tokens=10**9, alive=calm)
    held = [row.values["text"] for row in sources.rows("validation")]
    assert 30 < len(held) < 90, "about a fifth"
    kept = [text for text in held if text.strip()]
    assert tokenizer.decode(store[TEXT].slice(0, store[TEXT].items)) == "".join(
        text + tokenizer.eos_token for text in kept
    )
    few = held_out(reading.task, sources, tokens=1, alive=calm)
    assert 0 < few[TEXT].items <= store[TEXT].items
    lap = tokenizer.decode(np.concatenate(reading.sequences(0, 400)))
    rows = set(lap.split(tokenizer.eos_token)[1:-1])
    assert rows
    assert not rows & set(kept)


def test_other_files_than_those_of_the_checkpoint_are_refused(
    tmp_path: Path, tokenizer: Any
) -> None:
    run = make_run(tmp_path)
    reading = Reading(run, tokenizer, window=4)
    reading.sequences(0, 40)
    saved = reading.stream.position(40)
    (tmp_path / "corpus" / "d.csv").write_text("text\nnew\n")
    again = Reading(make_run(tmp_path), tokenizer, window=4)
    with pytest.raises(DataError, match=r"not those that were there at step 9") as caught:
        again.stream.seek(saved, step=9)
    assert caught.value.remedy


def write_lines(folder: Path, name: str, texts: list[str]) -> None:
    path = folder / "corpus" / name
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def run_on_lines(folder: Path, **files: list[str]) -> PretrainRun:
    """A run on JSONL files, which have a line for each text."""
    run = make_run(folder)
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


def test_a_row_that_cannot_be_read_is_named_when_its_time_comes(
    tmp_path: Path, tokenizer: Any
) -> None:
    run = make_run(tmp_path)
    for file in (tmp_path / "corpus").iterdir():
        file.unlink()
    bad = tmp_path / "corpus" / "a.jsonl"
    bad.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS * 20) + '\n{"text": 7}\n')
    reading = Reading(run, tokenizer, window=4)
    reading.sequences(0, 9)
    with pytest.raises(DataError, match=r"a\.jsonl, line 6001, column 'text': expected text, got"):
        reading.sequences(0, 20000)


def test_a_corpus_without_text_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    run = make_run(tmp_path)
    for file in (tmp_path / "corpus").iterdir():
        file.unlink()
    (tmp_path / "corpus" / "a.csv").write_text("text\n  \n")
    with pytest.raises(DataError, match="the train split has no text"):
        Reading(run, tokenizer, window=4).sequences(0, 1)


def test_reading_after_a_line_gives_the_rest_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "t.txt").write_text("one\n\ntwo\nthree\n")
    for file in find_files(write_corpus(tmp_path / "corpus"), FileFormat.AUTO):
        rows = list(read_rows(file))
        for after in (0, 1, 2, 29, 30, 31, 60, 95, 5000):
            assert list(read_rows(file, after=after)) == [row for row in rows if row.line > after]


def stream_changes(folder: Path) -> dict[str, Any]:
    corpus = {"uri": write_corpus(folder / "corpus"), "format": "Auto"}
    return {
        "data": {"train": corpus, "streaming": True, "shuffleWindow": 24},
        "training": {"steps": 14},
        "evaluation": {"everySteps": 7, "maxSequences": 16},
    }


def streamed_run(folder: Path, name: str, kind: str) -> dict[str, Any]:
    """A run of one of the kinds that learn from noise, on the corpus of three files."""
    objective, config = STREAMED[kind]
    run = pretrain_run(folder / name, objective=objective, **stream_changes(folder))
    run["model"] = {"config": config}
    run["tokenizer"]["train"]["vocabSize"] = 500
    return run


@pytest.mark.parametrize("kind", STREAMED)
def test_a_streamed_run_that_was_stopped_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, kind: str
) -> None:
    whole = train_here(streamed_run(tmp_path, "whole", kind))
    assert whole.scores[-1]["loss"] < whole.scores[0]["loss"]

    def stop_in_step_8(step: int, stop: StopSignal) -> None:
        stop.requested = step == 8

    run = streamed_run(tmp_path, "cut", kind)
    with pytest.raises(TerminatedError):
        train_here(run, after_step=stop_in_step_8)
    rest = train_here(run, place=Place(attempt=1))
    assert rest.status.first_step == 10
    assert rest.losses == whole.losses[9:]
    assert rest.scores[-1] == whole.scores[-1]
    kept = {path.name.partition("-")[0] for path in (tmp_path / "cut/checkpoints/cache").iterdir()}
    assert kept <= {"tokenizer", ".tokenizer"}, "no tokens on the disk"


def test_a_bad_row_late_in_a_stream_costs_no_step_once_it_is_corrected(tmp_path: Path) -> None:
    good = [json.dumps({"text": f"{number} ok"}) for number in range(1500)]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(good))
    (tmp_path / "held.jsonl").write_text("\n".join(good[:100]))
    changes = stream_changes(tmp_path)
    held = {"uri": str(tmp_path / "held.jsonl"), "format": "Auto", "fraction": None}
    train = {"uri": str(corpus), "format": "Auto"}
    changes["data"] |= {"train": train, "validation": held, "sequenceLength": 8}
    changes |= {"training": {"steps": 130}, "checkpoint": {"interval": "1h"}}
    train_here(pretrain_run(tmp_path / "first", **{**changes, "training": {"steps": 1}}))
    changes["tokenizer"] = {"train": None, "path": str(tmp_path / "first" / "model")}
    whole = train_here(pretrain_run(tmp_path / "whole", **changes))

    corpus.write_text("\n".join([*good[:1300], "{oops", *good[1301:]]))
    run = pretrain_run(tmp_path / "cut", **changes)
    with pytest.raises(DataError, match="line 1301: expected one JSON object"):
        train_here(run)
    corpus.write_text("\n".join(good))
    rest = train_here(run, place=Place(attempt=1))
    first = rest.status.first_step
    assert first is not None
    assert 20 < first < 130
    assert rest.losses == whole.losses[first - 1 :]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"steps": None, "epochs": 2}}, "a stream has no epochs"),
        ({"objective": "MaskedImage"}, "data.streaming reads text"),
        ({"data": {"shuffleWindow": 4}}, "shuffleWindow 4 must be at least globalBatchSize 8"),
        ({"data": {"streaming": False, "shuffleWindow": 64}}, "read with data.streaming only"),
    ],
)
def test_what_a_stream_cannot_be_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    run = pretrain_run(tmp_path, data={"streaming": True})
    for part, values in changes.items():
        run[part] = {**run[part], **values} if isinstance(values, dict) else values
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(ConfigError, match=message):
        read_run(tmp_path / "run.json")
