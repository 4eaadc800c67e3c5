"""A run so small that a test can make it many times: its data, its run file, its processes."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from support.nursery import Child, Nursery

CONFIG = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
WORDS = (
    *("the", "a", "old", "new", "red", "blue", "cat", "dog", "bird", "house", "tree"),
    *("runs", "sees", "finds", "under", "over", "near", "by"),
)


def write_corpus(path: Path, *, rows: int = 400, seed: int = 1) -> Path:
    """Sentences with something to learn in them, as JSON Lines."""
    chance = random.Random(seed)
    lines = [json.dumps({"text": " ".join(chance.choices(WORDS, k=24))}) for _ in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def run_dict(root: Path, corpus: Path, **changes: Any) -> dict[str, Any]:
    """A pretraining run whose checkpoints and model lie below `root`.

    Args:
        root: Directory of this run.
        corpus: Training rows.
        changes: Values by dotted path with `__` for the dots, such as training__steps=20.
    """
    run: dict[str, Any] = {
        "kind": "PretrainJob",
        "name": "tiny",
        "objective": "MaskedLM",
        "model": {"config": dict(CONFIG)},
        "tokenizer": {"train": {"vocabSize": 256}},
        "data": {
            "train": {"uri": str(corpus)},
            "validation": {"fraction": 0.1},
            "sequenceLength": 16,
        },
        "training": {
            "steps": 20,
            "globalBatchSize": 8,
            "precision": "FP32",
            "optimizer": {"learningRate": 1e-3},
        },
        "evaluation": {"everySteps": 10},
        "checkpoint": {"uri": "", "interval": "5steps", "keep": 3},
        "output": {"uri": ""},
    }
    run["checkpoint"]["uri"] = str(root / "checkpoints")
    run["output"]["uri"] = str(root / "model")
    for path, value in changes.items():
        place, keys = run, path.split("__")
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
    return run


@dataclass
class Rank:
    """One process of a run, and what it has said."""

    process: subprocess.Popen[bytes] | Child
    log: Path
    error_file: Path
    port: int

    def lines(self) -> list[dict[str, Any]]:
        """Its log so far."""
        found = []
        for line in self.log.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # not from our logger, or half a line
        return found

    def steps(self) -> dict[int, float]:
        """Losses that it has logged, by step."""
        return {
            line["step"]: line["loss"] for line in self.lines() if line.get("message") == "step"
        }

    def word(self) -> dict[str, Any]:
        """Its last word, as torchrun's launcher would read it."""
        body = json.loads(self.error_file.read_text())
        word: dict[str, Any] = json.loads(body["message"]["extraInfo"]["word"])
        return word

    def status(self) -> dict[str, Any] | None:
        """What it answers at /status, or None while nobody listens."""
        try:
            with urllib.request.urlopen(
                f"http://localhost:{self.port}/status", timeout=1
            ) as answer:
                status: dict[str, Any] = json.load(answer)
                return status
        except OSError:
            return None

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to it; a process that is gone does not mind."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def start(
    run: dict[str, Any],
    root: Path,
    *,
    nursery: Nursery | None = None,
    ranks: int = 1,
    name: str = "run",
    **environ: str | None,
) -> list[Rank]:
    """Start the ranks of a run, without torchrun: nobody restarts what is killed.

    Args:
        run: The run file.
        root: Where its logs go.
        nursery: Forks the processes; without one they are started the slow way.
        ranks: How many.
        name: Of the run file and the logs.
        environ: More variables; None takes one away (not from forked processes).
    """
    root.mkdir(parents=True, exist_ok=True)
    given = {key: value for key, value in environ.items() if value is not None}
    kept = {key: value for key, value in os.environ.items() if environ.get(key, "") is not None}
    file = root / f"{name}.json"
    file.write_text(json.dumps(run))
    meeting = free_port()
    started = []
    for rank in range(ranks):
        scratch = root / f"{name}-{rank}"
        scratch.mkdir(exist_ok=True)
        error_file, port = scratch / "error.json", free_port()
        error_file.unlink(missing_ok=True)
        place = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks,
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": meeting,
            "TORCHELASTIC_ERROR_FILE": error_file,
            "TROIKA_METRICS_PORT": port,
            "OMP_NUM_THREADS": 1,
        }
        env = {**{key: str(value) for key, value in place.items()}, **given}
        process: subprocess.Popen[bytes] | Child
        if nursery:
            process = nursery.start([str(file)], env, scratch / "log")
        else:
            with (scratch / "log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "troika_trainer", str(file)],
                    env={**kept, **env},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        started.append(Rank(process, scratch / "log", error_file, port))
    return started


def weights(directory: Path) -> dict[str, Tensor]:
    """Weights of an exported model."""
    return load_file(directory / "model.safetensors")
