"""What makes a directory a checkpoint: its manifest, and files that are what the manifest says."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from troika_api.v1alpha1.tasks import Criterion

from .curve import Point
from .integrity import Identity, problem, write_durably

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


@dataclass
class Progress:
    """Everything that a run remembers beside its weights and its optimizer."""

    step: int = 0
    tokens: int = 0
    """Training tokens since step 0, padding not counted."""
    evaluated_step: int | None = None
    """Step of the newest evaluation."""
    best_step: int | None = None
    best_score: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    """Validation metrics, oldest first, each with its step."""
    stream: dict[str, Any] | None = None
    """Where the data goes on, for data that is read as it comes (`stream.Position`); else the step
    says it all."""
    curve: list[Point] = field(default_factory=list)
    """How training went, oldest first."""

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Progress":
        """Out of a manifest's JSON; those of older versions have no curve."""
        curve = [Point(*values) for values in content.pop("curve", [])]
        return cls(**content, curve=curve)

    def copy(self) -> "Progress":
        """This moment's: the lists grow, what is in them and the place in a stream never change."""
        return replace(self, history=list(self.history), curve=list(self.curve))

    @property
    def waited(self) -> int:
        """Evaluations since the one that was best."""
        return sum(entry["step"] > (self.best_step or 0) for entry in self.history)

    def note(self, scores: dict[str, float], best_by: Criterion | None) -> bool:
        """Remember an evaluation of this step; True where it is the best by that metric so far."""
        self.evaluated_step = self.step
        self.history.append({"step": float(self.step), **scores})
        if best_by is None:
            return False
        score = -scores[best_by] if best_by.lower_is_better else scores[best_by]
        if self.best_score is not None and score <= self.best_score:
            return False
        self.best_step, self.best_score = self.step, score
        return True


@dataclass(frozen=True)
class Manifest:
    """The last file of a checkpoint, written when all others are on the disk."""

    progress: Progress
    attempt: int
    world_size: int
    time: float
    """Unix seconds."""
    versions: dict[str, str]
    files: dict[str, Identity] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> "Manifest | None":
        """The manifest of a checkpoint; a warning and None where it cannot be read."""
        try:
            content = json.loads((directory / MANIFEST).read_text())
            progress = Progress.of(content.pop("progress"))
            return cls(progress=progress, **content)
        except (OSError, ValueError, TypeError) as error:
            log.warning("checkpoint skipped: %s: %s", directory / MANIFEST, error)
            return None

    def write(self, directory: Path) -> None:
        """Put it on the disk for good."""
        write_durably(directory / MANIFEST, json.dumps(asdict(self), indent=1).encode())


def damaged(directory: Path, files: Mapping[str, Identity]) -> list[str]:
    """Which of these files are not what they were, in words."""
    return [
        f"{directory / name} {found}"
        for name, expected in sorted(files.items())
        if (found := problem(directory / name, expected))
    ]
