"""A stream is the corpus again and again; where it goes on is known without reading it anew."""

import json
from itertools import chain, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.streams import LENGTH, TEXTS, Reading, stream_run, write_corpus
from support.trainer_runs import calm
from troika_api.v1alpha1.data import FileFormat
from troika_trainer.batches import Batches, StreamOrder
from troika_trainer.errors import DataError
from troika_trainer.place import Place
from troika_trainer.rows import find_files, read_rows
from troika_trainer.shards import Store
from troika_trainer.sources import Sources
from troika_trainer.stream import TEXT, held_out


def test_a_stream_is_the_rows_of_all_files_lap_after_lap(tmp_path: Path, tokenizer: Any) -> None:
    run = stream_run(tmp_path, validation={"uri": str(tmp_path / "corpus/c.csv"), "fraction": None})
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
    run = stream_run(tmp_path, validation={"fraction": 0.2})
    whole = Reading(run, tokenizer, window=window)
    for used in (0, 3, 64, 500, 1500):
        whole.sequences(max(used - 1, 0), used)
        saved = json.loads(json.dumps(whole.stream.position(used)))
        ahead = whole.sequences(used, used + 30)
        again = Reading(run, tokenizer, window=window)
        again.stream.seek(saved, step=1)
        assert again.sequences(used, used + 30) == ahead


def test_going_on_costs_a_window_however_far_the_run_is(tmp_path: Path, tokenizer: Any) -> None:
    run = stream_run(tmp_path)
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
    reading = Reading(stream_run(tmp_path), tokenizer, window=4)
    first = reading.sequences(0, 9)
    reading.sequences(400, 401)
    assert reading.sequences(0, 9) == first


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_ranks_together_have_the_same_sequences_whatever_their_number(
    tmp_path: Path, tokenizer: Any, ranks: int
) -> None:
    order = StreamOrder(size=12, batch=8, seed=3)
    run = stream_run(tmp_path)
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


def test_every_rank_knows_what_was_read_whoever_has_the_last_sequence(
    tmp_path: Path, tokenizer: Any
) -> None:
    """Step 2 has a single sequence of the second window: the last rank gets it."""
    order = StreamOrder(size=15, batch=8, seed=3)
    run = stream_run(tmp_path)
    told = []
    for rank in range(2):
        reading = Reading(run, tokenizer, window=15)
        examples = reading.task.examples(Store.of({TEXT: reading.stream}, {}))
        batches = Batches(examples, order, place=Place(rank=rank, world_size=2), limit=LENGTH)
        for step in (1, 2):
            batches.step(step)
            reading.stream.reach(8 * step)
        told.append(reading.stream.position(16))
    assert (told[0]["window"], told[0]["read"]["end"]["window"]) == (1, 2)
    assert told[0] == told[1]


def test_a_rank_that_has_read_for_the_next_step_can_tell_of_the_one_before(
    tmp_path: Path, tokenizer: Any
) -> None:
    """Of 20 sequences: step 4 was read, another rank could not make step 3, all save step 2."""
    run = stream_run(tmp_path)
    on, even = (Reading(run, tokenizer, window=24) for _ in range(2))
    even.sequences(0, 40)
    on.sequences(0, 80)
    assert on.stream.position(40) == even.stream.position(40)


def test_a_window_is_shuffled_and_none_is_left_out() -> None:
    order = StreamOrder(size=12, batch=8, seed=3)
    drawn = np.concatenate([order.step(step)[0] for step in range(1, 7)])
    assert sorted(drawn.tolist()) == list(range(48))
    assert all(sorted(drawn[at : at + 12]) == list(range(at, at + 12)) for at in (0, 12, 24, 36))
    assert drawn.tolist() != sorted(drawn.tolist())
    assert drawn[12:24].tolist() != [12 + number for number in drawn[:12]]


def test_held_out_rows_are_in_no_window(tmp_path: Path, tokenizer: Any) -> None:
    run = stream_run(tmp_path, validation={"fraction": 0.2})
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


def test_a_row_that_cannot_be_read_is_named_when_its_time_comes(
    tmp_path: Path, tokenizer: Any
) -> None:
    run = stream_run(tmp_path)
    for file in (tmp_path / "corpus").iterdir():
        file.unlink()
    bad = tmp_path / "corpus" / "a.jsonl"
    bad.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS * 20) + '\n{"text": 7}\n')
    reading = Reading(run, tokenizer, window=4)
    reading.sequences(0, 9)
    with pytest.raises(DataError, match=r"a\.jsonl, line 6001, column 'text': expected text, got"):
        reading.sequences(0, 20000)


def test_a_corpus_without_text_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    run = stream_run(tmp_path)
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
