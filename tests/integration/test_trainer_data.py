"""Tokenizing in several processes, in several jobs at once, and with a sudden end."""

import json
import os
import signal
from pathlib import Path

import pytest

from support import tinyrun
from support.nursery import Nursery
from support.trainer_runs import pretrain_run
from support.waiting import wait_until
from troika_api.v1alpha1.data import TokenizerTraining
from troika_api.v1alpha1.run import RUN
from troika_trainer import data, encode, sources
from troika_trainer.errors import DataError, OutOfMemoryError
from troika_trainer.tasks import Task, task_class
from troika_trainer.tokenizer import train_tokenizer

pytestmark = pytest.mark.slow


def calm() -> None:
    """Nobody has to know."""


def task_on(folder: Path) -> tuple[Task, sources.Sources]:
    """A task on four files, and where its rows are."""
    texts = [f"row {number} {'and so on ' * (number % 5)}" for number in range(400)]
    folder.mkdir(exist_ok=True)
    for part in range(4):
        lines = [json.dumps({"text": text}) for text in texts[part::4]]
        (folder / f"{part}.jsonl").write_text("\n".join(lines))
    changes = {"train": {"uri": f"{folder}/*.jsonl", "format": "Auto"}}
    run = RUN.validate_python(pretrain_run(folder, objective="CausalLM", data=changes))
    spec = TokenizerTraining(vocab_size=300)
    made = train_tokenizer(lambda: texts, spec, algorithm="ByteLevelBPE", bidirectional=False)
    return task_class(run)(run, made), sources.Sources.of(run)


def content(directory: Path) -> dict[str, bytes]:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_the_number_of_processes_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SMALLEST_PORTION", 1)
    task, found = task_on(tmp_path / "corpus")
    assert len(found.portions("train")) == 4
    made = []
    signs: list[int] = []
    for workers in (1, 3):
        monkeypatch.setattr(data, "cores", lambda workers=workers: workers)
        target = tmp_path / f"by-{workers}"
        data.write_splits(target, sources=found, task=task, alive=lambda: signs.append(os.getpid()))
        made.append(content(target))
    assert made[0] == made[1]
    assert "train/input_ids.00003.bin" in made[0]
    assert set(signs) == {os.getpid()}
    stores = data.open_splits(tmp_path / "by-3", task)
    rows = {split: list(found.rows(split)) for split in ("train", "validation")}
    for split, store in stores.items():
        assert store.facts["rows"] == len(store) == len(rows[split])
        ids = [store["input_ids"][number].tolist() for number in range(len(store))]
        expected = task.encode(rows[split])
        assert ids == [example["input_ids"].tolist() for example in expected]


def test_what_goes_wrong_in_a_process_is_said_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SMALLEST_PORTION", 1)
    monkeypatch.setattr(data, "cores", lambda: 2)
    task, found = task_on(tmp_path / "corpus")
    with (tmp_path / "corpus" / "2.jsonl").open("a") as file:
        file.write('\n{"text": 7}\n')
    with pytest.raises(DataError, match=r"2\.jsonl, line 101, column 'text': expected") as caught:
        data.write_splits(tmp_path / "made", sources=found, task=task, alive=calm)
    assert caught.value.remedy

    monkeypatch.setattr(encode, "_work", end_suddenly)
    with pytest.raises(OutOfMemoryError, match="processes that tokenize was killed"):
        data.write_splits(tmp_path / "again", sources=found, task=task, alive=calm)


def end_suddenly(_portion: encode.Portion) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def session_of(leader: int) -> list[int]:
    """All processes of a trainer's session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def big_corpus(folder: Path) -> Path:
    """Two files that are each worth a process, and take long enough to be interrupted."""
    folder.mkdir()
    line = json.dumps({"text": " ".join(tinyrun.WORDS * 20)}) + "\n"
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text(line * (sources.SMALLEST_PORTION // len(line) + 1))
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, forked: Nursery) -> Path:
    """A model with a tokenizer."""
    root = tmp_path_factory.mktemp("base")
    run = tinyrun.run_dict(root, tinyrun.write_corpus(root / "train.jsonl"), training__steps=1)
    assert tinyrun.start(run, root, nursery=forked)[0].wait() == 0
    return root / "model"


def test_no_process_outlives_a_trainer_that_is_killed_while_it_tokenizes(
    tmp_path: Path, forked: Nursery, base: Path
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: the trainer tokenizes by itself")
    run = tinyrun.run_dict(
        tmp_path / "run",
        big_corpus(tmp_path / "corpus"),
        tokenizer={"path": str(base)},
        data__train={"uri": str(tmp_path / "corpus")},
    )
    rank = tinyrun.start(run, tmp_path / "run", nursery=forked)[0]
    staged = tmp_path / "run" / "checkpoints" / "cache"
    parts = ".data-*.tmp-*/train-*"
    wait_until(
        lambda: len(list(staged.glob(parts))) == 2, "two processes at work", seconds=120, every=0.02
    )
    leader = rank.process.pid
    assert len(session_of(leader)) >= 4, "trainer, server, two workers"
    rank.kill()
    assert rank.wait() == -signal.SIGKILL
    wait_until(lambda: not session_of(leader), "the end of all", seconds=30)


def test_no_process_outlives_a_trainer_that_is_killed_while_it_trains(
    tmp_path: Path, forked: Nursery
) -> None:
    corpus = tinyrun.write_corpus(tmp_path / "train.jsonl")
    run = tinyrun.run_dict(tmp_path / "run", corpus, training__steps=100000)
    rank = tinyrun.start(run, tmp_path / "run", nursery=forked)[0]
    leader = rank.process.pid
    saved = tmp_path / "run" / "checkpoints"
    wait_until(lambda: any(saved.glob("step-[0-9]*/manifest.json")), "a checkpoint", seconds=120)
    wait_until(lambda: len(session_of(leader)) == 2, "its writing process")
    rank.kill()
    wait_until(lambda: not session_of(leader), "the end of both", seconds=30)


def test_two_jobs_at_once_share_what_one_of_them_makes(tmp_path: Path, forked: Nursery) -> None:
    corpus = tinyrun.write_corpus(tmp_path / "train.jsonl", rows=3000)
    cache = tmp_path / "cache"
    ranks = []
    for seed in (1, 2):
        root = tmp_path / f"job-{seed}"
        run = tinyrun.run_dict(
            root,
            corpus,
            training__steps=4,
            training__seed=seed,
            data__cache={"uri": str(cache)},
        )
        ranks += tinyrun.start(run, root, nursery=forked)
    assert [rank.wait() for rank in ranks] == [0, 0]
    made = sorted(path.name.partition("-")[0] for path in cache.glob("[!.]*"))
    assert made == ["data", "tokenizer"]
    assert not list(cache.glob(".*.tmp-*"))
    assert not list(tmp_path.glob("job-*/checkpoints/cache/data-*"))
    # Each is what it would have been alone.
    alone = tinyrun.run_dict(tmp_path / "alone", corpus, training__steps=4, training__seed=2)
    assert tinyrun.start(alone, tmp_path / "alone", nursery=forked)[0].wait() == 0
    shared, own = (tinyrun.weights(tmp_path / name / "model") for name in ("job-2", "alone"))
    assert all(shared[name].equal(own[name]) for name in own)
