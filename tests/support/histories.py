"""Runs that are compared step by step: the loss of each in full precision, and its last weights."""

import json
import signal
from pathlib import Path
from typing import Any

import torch

from support import tinyrun
from support.nursery import Nursery
from support.waiting import wait_until

NO_DROPOUT = {
    **tinyrun.CONFIG,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
EVERY_STEP = {"training__steps": 12, "evaluation__everySteps": 1, "checkpoint__interval": "4steps"}
"""Validation after every step: its loss is noted in full precision, and tells all weights apart."""


class Runs:
    """Makes runs below one directory."""

    def __init__(self, root: Path, corpus: Path, forked: Nursery) -> None:
        self.root, self.corpus, self.forked = root, corpus, forked

    def run(self, name: str, **changes: Any) -> dict[str, Any]:
        return tinyrun.run_dict(self.root / name, self.corpus, **{**EVERY_STEP, **changes})

    def start(
        self, run: dict[str, Any], name: str, *, ranks: int = 1, **environ: str
    ) -> list[tinyrun.Rank]:
        return tinyrun.start(
            run, self.root / name, nursery=self.forked, ranks=ranks, name="end", **environ
        )

    def finish(
        self, run: dict[str, Any], name: str, *, ranks: int = 1, **environ: str
    ) -> list[tinyrun.Rank]:
        started = self.start(run, name, ranks=ranks, **environ)
        assert [rank.wait() for rank in started] == [0] * ranks, started[0].log.read_text()[-2000:]
        return started

    def stop_at(
        self,
        run: dict[str, Any],
        name: str,
        *,
        step: int,
        ranks: int = 1,
        of: int = 12,
        **environ: str,
    ) -> int:
        """Let it run to about this step; the last rank is told to stop, and all save."""
        started = tinyrun.start(
            run, self.root / name, nursery=self.forked, ranks=ranks, name="begin", **environ
        )

        def told() -> str:
            return started[0].log.read_text()[-2000:]

        def reached() -> bool:
            assert started[0].process.poll() is None, told()
            return ((started[0].status() or {}).get("step") or 0) >= step

        wait_until(reached, f"step {step}", seconds=120, every=0.005, seen=told)
        started[-1].kill(signal.SIGTERM)
        assert [rank.wait() for rank in started] == [143] * ranks
        saved = max(self.steps(name))
        assert step <= saved < of, "it came to its end before it was told to stop"
        return saved

    def steps(self, name: str) -> list[int]:
        names = [path.name for path in (self.root / name / "checkpoints").glob("step-*")]
        assert not any("tmp" in found for found in names)
        return [int(found.removeprefix("step-")) for found in names]

    def history(self, name: str) -> list[float]:
        """Validation losses of all steps."""
        manifest = self.root / name / "checkpoints" / "step-12" / "manifest.json"
        history = json.loads(manifest.read_text())["progress"]["history"]
        assert [int(entry["step"]) for entry in history] == list(range(13))
        return [entry["loss"] for entry in history]

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return tinyrun.weights(self.root / name / "model")
