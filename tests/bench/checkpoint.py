"""For how long a save holds up training: `PYTHONPATH=tests python -m bench.checkpoint`.

The same model and optimizer state, saved in turn: ours, torch.distributed.checkpoint's `save`, its
`async_save` in a thread and in a process, and `torch.save` with an fsync. Between two saves there
is a forward and a backward pass, for ours copies beside it: for how long the loop stood still is
one row, by how much pass and save together are longer than the pass alone another.

And what a resume has to do, at an early step and at a late one: it must not be more.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save, save

from support.waiting import wait_until
from troika_api.v1alpha1.data import TokenizerTraining
from troika_api.v1alpha1.run import RUN
from troika_trainer.checkpoint import Checkpoints
from troika_trainer.distributed import Group
from troika_trainer.manifest import Progress
from troika_trainer.place import Place
from troika_trainer.sources import Sources
from troika_trainer.stream import Stream
from troika_trainer.tasks import task_class
from troika_trainer.tokenizer import train_tokenizer

from .table import Row, publish

LAYERS = 48
BATCH = 64
PATIENCE = 120.0
"""Seconds after which a save that is not committed is given up."""
WINDOW, LENGTH = 64, 128
"""Of the stream that is resumed: sequences, and tokens of each."""
STREAM_BATCH = 8
"""Sequences that a step takes from it."""


class Work:
    """A model of about so many million parameters, and its optimizer state."""

    def __init__(self, root: Path, millions: float) -> None:
        self.root = root
        width = int((millions * 1e6 / LAYERS) ** 0.5)
        self.model = nn.Sequential(*(nn.Linear(width, width) for _ in range(LAYERS)))
        self.inputs = torch.randn(BATCH, width)
        self.with_save: list[float] = []
        """Seconds of a save and a pass together."""
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        for weight in self.model.parameters():
            weight.grad = torch.zeros_like(weight)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.checkpoints, self.slow = (
            Checkpoints(root / name, keep=1, group=Group(Place(), torch.device("cpu")))
            for name in ("ours", "slow")
        )
        self.checkpoints.register()
        self.slow.register()
        self._step = 0

    def state(self) -> dict[str, object]:
        weights, states = get_state_dict(self.model, self.optimizer)
        return {"model": weights, "optimizer": states}

    def empty(self) -> Path:
        place = self.root / "theirs"
        shutil.rmtree(place, ignore_errors=True)
        return place

    def turn(self) -> float:
        """A forward and a backward pass; seconds."""
        started = time.monotonic()
        self.model(self.inputs).sum().backward()
        return time.monotonic() - started

    def ours(self) -> tuple[float, float]:
        self._step += 1
        progress, started = Progress(step=self._step), time.monotonic()
        self.checkpoints.save(self.model, self.optimizer, progress)
        blocked = time.monotonic() - started
        self.turn()
        copied = time.monotonic()
        self.checkpoints.copied()
        ended = time.monotonic()
        blocked += ended - copied
        self.with_save.append(ended - started)
        wait_until(self.checkpoints.finished, "the commit", seconds=PATIENCE, every=0.005)
        return blocked, time.monotonic() - started

    def ours_waiting(self) -> tuple[float, float]:
        """The same files, checksums and commit, with the loop standing still."""
        self._step += 1
        started = time.monotonic()
        self.slow.save(self.model, self.optimizer, Progress(step=self._step), wait=True)
        self.slow.finished()
        seconds = time.monotonic() - started
        return seconds, seconds

    def synchronous(self) -> tuple[float, float]:
        writer, started = FileSystemWriter(self.empty()), time.monotonic()
        save(self.state(), storage_writer=writer, no_dist=True)
        seconds = time.monotonic() - started
        return seconds, seconds

    def one_file(self) -> tuple[float, float]:
        place = self.empty()
        place.mkdir()
        started = time.monotonic()
        with (place / "state.pt").open("wb") as file:
            torch.save(self.state(), file)
            file.flush()
            os.fsync(file.fileno())
        seconds = time.monotonic() - started
        return seconds, seconds

    def torch_async(self, kind: AsyncCheckpointerType) -> tuple[float, float]:
        writer, started = FileSystemWriter(self.empty()), time.monotonic()
        future = async_save(self.state(), storage_writer=writer, async_checkpointer_type=kind)
        blocked = time.monotonic() - started
        pending: Any = future  # a future, or a pair of them where staging is asynchronous too
        getattr(pending, "upload_completion", pending).result()
        return blocked, time.monotonic() - started


def main() -> None:
    """Measure in turn, so that a slow minute of the machine is everybody's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)  # the other core is for those who write
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    os.environ.setdefault("MASTER_ADDR", "localhost")  # torch's process wants a group, even alone
    dist.init_process_group(
        "gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1
    )
    with tempfile.TemporaryDirectory(prefix="troika-bench-") as scratch:
        work = Work(Path(scratch), options.millions)
        ways: dict[str, Callable[[], tuple[float, float]]] = {
            "ours": work.ours,
            "ours, waiting": work.ours_waiting,
            "DCP save": work.synchronous,
            "torch.save": work.one_file,
            "DCP async, thread": lambda: work.torch_async(AsyncCheckpointerType.THREAD),
            "DCP async, process": lambda: work.torch_async(AsyncCheckpointerType.PROCESS),
        }
        for way in ways.values():
            way()  # starts processes, maps memory
        link = work.checkpoints._saver._link
        assert link
        assert link.poll(300), "the writing process did not start"
        work.ours()
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        work.with_save.clear()
        turns: list[float] = []
        for _ in range(options.rounds):
            for name, way in ways.items():
                taken[name].append(way())
                turns.append(work.turn())
        lost = statistics.median(work.with_save) - statistics.median(turns)
        resumed = resuming(Path(scratch))
    publish_all(options.millions, taken, lost, resumed)


class Reader:
    """A stream of text that counts the rows that it reads."""

    def __init__(self, corpus: Path, tokenizer: Any) -> None:
        run = RUN.validate_python(
            {
                "kind": "PretrainJob",
                "name": "bench",
                "objective": "CausalLM",
                "model": {"config": {"model_type": "gpt2"}},
                "data": {"train": {"uri": str(corpus)}, "streaming": True},
                "training": {"steps": 1},
                "checkpoint": {"uri": str(corpus.parent)},
                "output": {"uri": str(corpus.parent)},
            }
        )
        self.rows = 0
        task = task_class(run)(run, tokenizer)
        encode = task.encode

        def counting(rows: Any) -> Any:
            self.rows += len(rows)
            return encode(rows)

        task.encode = counting  # type: ignore[method-assign]
        self.stream = Stream(
            task, Sources.of(run), window=WINDOW, length=LENGTH, seed=17, alive=lambda: None
        )

    def read(self, sequence: int) -> None:
        self.stream.slice(sequence * LENGTH, (sequence + 1) * LENGTH)


def resuming(folder: Path) -> Row:
    """Rows that a resume reads at a late step against an early one."""
    corpus = folder / "corpus.jsonl"
    texts = [f"row {number} and all that belongs to it" for number in range(20_000)]
    corpus.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    spec = TokenizerTraining(vocab_size=512)
    tokenizer = train_tokenizer(
        lambda: texts[:1000], spec, algorithm="ByteLevelBPE", bidirectional=False
    )
    whole, read = Reader(corpus, tokenizer), []
    for step in (20, 2000):
        used = step * STREAM_BATCH
        whole.read(used)
        again = Reader(corpus, tokenizer)
        again.stream.seek(whole.stream.position(used), step=step)
        again.read(used)
        read.append(float(again.rows))
    return Row(
        "resume a stream at step 2000, against step 20", "rows read", read[1], read[0], "<= 2"
    )


def publish_all(
    millions: float,
    taken: dict[str, list[tuple[float, float]]],
    lost: float,
    resumed: Row,
) -> None:
    """Medians, ours beside each of theirs."""
    middle = {
        name: [statistics.median(part) for part in zip(*values, strict=True)]
        for name, values in taken.items()
    }
    work = f"save {millions:g}M parameters"
    blocked, written = middle.pop("ours")
    goals = {"ours, waiting": "<= 0.1", "DCP save": "<= 0.1", "torch.save": "<= 0.1"}
    rows = [
        Row(f"{work}, against {name}", "blocked seconds", blocked, theirs[0], goals.get(name, ""))
        for name, theirs in middle.items()
    ]
    rows.append(
        Row(f"{work}, against DCP save", "seconds to commit", written, middle["DCP save"][1], "")
    )
    # What the copy beside the pass takes from it counts too: the loop may not lose it in hiding.
    against = middle["DCP save"][0]
    rows.append(Row(f"{work}, against DCP save", "seconds lost", lost, against, "<= 0.1"))
    rows.append(resumed)
    sys.exit(0 if publish("checkpoint", rows) else 1)


if __name__ == "__main__":
    main()
