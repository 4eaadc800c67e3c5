"""One run that is killed again and again, beside one that is left alone."""

import contextlib
import json
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from support import tinyrun
from support.nursery import Nursery
from support.tinyrun import Rank
from support.waiting import wait_until

Aim = Literal["step", "save", "start", "end", "export"]
"""A step or a save in the middle; the first second; the save of the last step; the export."""
GIVE_UP_SECONDS = 300.0
FEWEST = 3
"""Kills: one in a save on purpose, one in the last save, one in the export."""
TRIES = 10
SAVE, EXPORT = "step-*.tmp-*", ".model.tmp-*"


@dataclass(frozen=True)
class Kill:
    """One SIGKILL, and what was there when it came."""

    aim: Aim
    step: int
    """Last step that the trainer had told of."""
    in_save: bool
    """Whether this attempt left a checkpoint half-written."""
    in_export: bool
    """Whether it left a model half-written."""
    newest: int
    """Step of the newest checkpoint that it found."""
    resumed_at: int
    """Step that it began with; 0 where it began anew, or was killed before it could say."""


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

    @property
    def in_export(self) -> int:
        """Kills that met a half-written model."""
        return sum(kill.in_export for kill in self.kills)

    @property
    def resumed(self) -> int:
        """Killed attempts that had gone on from a checkpoint."""
        return sum(kill.resumed_at > 0 for kill in self.kills)

    @property
    def lost(self) -> list[Kill]:
        """Attempts that made steps and had not begun with the newest checkpoint."""
        return [k for k in self.kills if k.step > 0 and k.resumed_at != k.newest]


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
        for number, (target, aim) in enumerate(self._plan(kills)):
            outcome.kills.append(self._kill(number, target, aim))
        self._finish("wild")
        calm, wild = (tinyrun.weights(self._root / name / "model") for name in ("calm", "wild"))
        outcome.equal = calm.keys() == wild.keys() and all(
            torch.equal(calm[name], wild[name]) for name in calm
        )
        outcome.history_equal = self._history("calm") == self._history("wild")
        return outcome

    def _plan(self, kills: int) -> list[tuple[int, Aim]]:
        """Targets are spread over the run, so that every part of it is hit, the aims at random."""
        assert kills >= FEWEST
        middle = range(self._save_every, self._steps * 3 // 4)
        targets = sorted(self._chance.sample(middle, kills - 2))
        aims: list[Aim] = self._chance.choices(("step", "save", "start"), (45, 45, 10), k=kills - 3)
        aims.append("save")
        self._chance.shuffle(aims)
        ends: list[tuple[int, Aim]] = [(self._steps, "end"), (self._steps, "export")]
        return [*zip(targets, aims, strict=True), *ends]

    def _kill(self, number: int, target: int, aim: Aim) -> Kill:
        """Kill one attempt. One that was faster than that is no kill: all that is left of the run
        is then its export, which is made again, so the next is killed there.
        """
        for again in range(TRIES):
            killed = self._killed(f"attempt-{number}-{again}", target, "export" if again else aim)
            if killed is not None:
                return killed
        raise AssertionError(f"{TRIES} runs came to their end before they could be killed")

    def _killed(self, name: str, target: int, aim: Aim) -> Kill | None:
        before, newest = self._half_written(), self._newest()
        rank = self._start("wild", name)
        delay = self._chance.random()

        def fresh(pattern: str) -> bool:
            return any(Path(path).match(pattern) for path, _ in self._half_written() - before)

        if aim == "start":
            time.sleep(delay * 1.5)
        elif aim == "export":
            self._until(rank, lambda: fresh(EXPORT))
        elif aim == "end":
            self._until(rank, lambda: fresh(f"step-{self._steps}.tmp-*"))
        else:
            self._until(rank, lambda: self._step(rank) >= target)
            if aim == "save":
                self._until(rank, lambda: fresh(SAVE))
            else:
                time.sleep(delay * 0.1)
        rank.kill()
        code = rank.wait()
        assert code in (-signal.SIGKILL, 0), rank.log.read_text()[-3000:]
        if code == 0:
            return None
        return Kill(
            aim,
            self._step_told(rank),
            in_save=fresh(SAVE),
            in_export=fresh(EXPORT),
            newest=newest,
            resumed_at=self._resumed_at(rank),
        )

    def _until(self, rank: Rank, holds: Any) -> None:
        """Wait, but no longer than the trainer lives."""
        wait_until(
            lambda: holds() or rank.process.poll() is not None,
            "the moment to kill",
            seconds=GIVE_UP_SECONDS,
            every=0.002,
            seen=lambda: rank.log.read_text()[-3000:],
        )

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

    def _half_written(self) -> set[tuple[str, int]]:
        """Directories of checkpoints and models that are no such yet: paths and inodes, as what an
        earlier attempt left may have the same name.
        """
        root, found = self._root / "wild", set()
        for path in (*(root / "checkpoints").glob(SAVE), *root.glob(EXPORT)):
            with contextlib.suppress(FileNotFoundError):
                found.add((str(path), path.stat().st_ino))
        return found

    def _newest(self) -> int:
        manifests = (self._root / "wild" / "checkpoints").glob("step-*/manifest.json")
        names = [path.parent.name for path in manifests if "tmp" not in path.parent.name]
        return max((int(name.removeprefix("step-")) for name in names), default=0)

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
