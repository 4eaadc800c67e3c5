"""One run that is killed again and again, beside one that is left alone."""

import json
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from support import tinyrun
from support.nursery import Nursery
from support.tinyrun import Rank

Aim = Literal["step", "save", "start"]
GIVE_UP_SECONDS = 300.0


@dataclass(frozen=True)
class Kill:
    """One SIGKILL, and what was there when it came."""

    aim: Aim
    step: int
    """Last step that the trainer had told of."""
    in_save: bool
    """Whether a checkpoint was half-written."""
    resumed_at: int
    """Step that this attempt had begun with."""


@dataclass
class Outcome:
    """What came of it."""

    kills: list[Kill] = field(default_factory=list)
    equal: bool = False
    """Whether all final weights are bit for bit those of the undisturbed run."""
    history_equal: bool = False
    steps: int = 0

    @property
    def in_save(self) -> int:
        """Kills that met a half-written checkpoint."""
        return sum(kill.in_save for kill in self.kills)


class Chaos:
    """Kills a run `kills` times at moments that `seed` chooses."""

    def __init__(
        self, root: Path, *, steps: int, save_every: int, nursery: Nursery, seed: int
    ) -> None:
        self._root, self._steps, self._save_every = root, steps, save_every
        self._nursery, self._chance = nursery, random.Random(seed)
        self._corpus = tinyrun.write_corpus(root / "corpus.jsonl")

    def run(self, kills: int) -> Outcome:
        """Do it all."""
        outcome = Outcome(steps=self._steps)
        self._finish("calm")
        # Targets are spread over the run, so that every part of it is hit, the aims at random.
        targets = sorted(self._chance.sample(range(1, self._steps - 1), kills))
        for number, target in enumerate(targets):
            aim: Aim = self._chance.choices(("step", "save", "start"), (45, 45, 10))[0]
            outcome.kills.append(self._kill(number, target, aim))
        self._finish("wild")
        calm, wild = (tinyrun.weights(self._root / name / "model") for name in ("calm", "wild"))
        outcome.equal = calm.keys() == wild.keys() and all(
            torch.equal(calm[name], wild[name]) for name in calm
        )
        outcome.history_equal = self._history("calm") == self._history("wild")
        return outcome

    def _kill(self, number: int, target: int, aim: Aim) -> Kill:
        rank = self._start("wild", f"attempt-{number}")
        wait = self._chance.random()
        if aim == "start":
            time.sleep(wait * 1.5)
        else:
            self._until(rank, lambda: self._step(rank) >= target)
            if aim == "save":
                self._until(rank, self._half_written)
                time.sleep(wait * 0.05)
            else:
                time.sleep(wait * 0.1)
        rank.kill()
        code = rank.wait()
        assert code in (-9, 0), rank.log.read_text()[-3000:]
        return Kill(aim, self._step_told(rank), self._half_written(), self._resumed_at(rank))

    def _until(self, rank: Rank, holds: Any) -> None:
        """Wait, but no longer than the trainer lives."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while not holds() and rank.process.poll() is None:
            assert time.monotonic() < deadline, rank.log.read_text()[-3000:]
            time.sleep(0.002)

    def _start(self, name: str, log: str) -> Rank:
        run = tinyrun.run_dict(
            self._root / name,
            self._corpus,
            training__steps=self._steps,
            checkpoint__interval=f"{self._save_every}steps",
            evaluation__everySteps=max(1, self._steps // 5),
        )
        return tinyrun.start(run, self._root / name, nursery=self._nursery, name=log)[0]

    def _finish(self, name: str) -> None:
        rank = self._start(name, "end")
        assert rank.wait(GIVE_UP_SECONDS) == 0, rank.log.read_text()[-3000:]

    def _half_written(self) -> bool:
        return any((self._root / "wild" / "checkpoints").glob("step-*.tmp-*"))

    def _step(self, rank: Rank) -> int:
        return int((rank.status() or {}).get("step") or 0)

    def _step_told(self, rank: Rank) -> int:
        return max([0, *(int(line.get("step") or 0) for line in rank.lines())])

    def _resumed_at(self, rank: Rank) -> int:
        resumed = [line for line in rank.lines() if line.get("message") == "resumed"]
        return int(resumed[0]["step"]) if resumed else 0

    def _history(self, name: str) -> Any:
        manifest = self._root / name / "checkpoints" / f"step-{self._steps}" / "manifest.json"
        return json.loads(manifest.read_text())["progress"]["history"]
