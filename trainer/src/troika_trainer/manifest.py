"""What makes a directory a checkpoint: its manifest, and files that are what the manifest says."""

import json
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from troika_api.v1alpha1.tasks import Criterion

from .curve import Point
from .errors import StorageError
from .integrity import MISSING, Identity, problem, write_durably
from .lineage import Lineage

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CHECKSUM = "sha256"
"""Key of the manifest's own, over all the rest."""


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

    def copy(self) -> "Progress":
        """This moment's: the lists grow, what is in them and the place in a stream never change."""
        return replace(self, history=list(self.history), curve=list(self.curve))

    @property
    def waited(self) -> int:
        """Evaluations since the one that was best."""
        return sum(entry["step"] > (self.best_step or 0) for entry in self.history)

    def note(self, scores: dict[str, float], best_by: Criterion | None) -> bool:
        """Remember an evaluation of this step; True where it is the best by that metric so far.

        A score that is no number is never the best: the patience of early stopping goes on.
        """
        self.evaluated_step = self.step
        self.history.append({"step": float(self.step), **scores})
        if best_by is None:
            return False
        score = _score(scores, best_by)
        if not math.isfinite(score):
            return False
        known = self.best_score
        if known is not None and math.isfinite(known) and score <= known:
            return False
        self.best_step, self.best_score = self.step, score
        return True

    def best_first(self, among: Collection[int], best_by: Criterion) -> list[int]:
        """Those of some steps that were evaluated, by what that said of them, the best first."""
        scored = [
            (_score(entry, best_by), int(entry["step"]))
            for entry in self.history
            if entry["step"] in among and math.isfinite(entry.get(best_by, math.nan))
        ]
        # Of equal ones the first: as `note` has it.
        return [step for _, step in sorted(scored, key=lambda both: (-both[0], both[1]))]


def _score(scores: Mapping[str, float], best_by: Criterion) -> float:
    """The higher the better."""
    return -scores[best_by] if best_by.lower_is_better else scores[best_by]


@dataclass(frozen=True)
class Manifest:
    """The last file of a checkpoint, written when all others are on the disk."""

    progress: Progress
    attempt: int
    world_size: int
    time: float
    """Unix seconds."""
    versions: dict[str, str]
    term: str
    """Of the attempt that wrote it."""
    lineage: Lineage
    """What the run has to share that goes on from here."""
    files: dict[str, Identity] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> "Manifest | None":
        """The manifest of a checkpoint; a warning and None where it is damaged or missing.

        Raises:
            StorageError: it may be whole, but cannot be read.
        """
        path = directory / MANIFEST
        try:
            content = json.loads(path.read_text())
            if not isinstance(content, dict):
                raise TypeError("it holds no object")  # noqa: TRY301 - told below
            if content.pop(CHECKSUM, None) != _checksum(content):
                raise ValueError("its SHA-256 has changed or is missing")  # noqa: TRY301
            return _form().validate_python(content)
        except MISSING as error:
            log.warning("checkpoint skipped: %s: %s", path, error.strerror)
        except OSError as error:
            raise unreadable(path, error) from error
        except (ValueError, TypeError) as error:
            log.warning("checkpoint skipped: %s is damaged: %s", path, error)
        return None

    def write(self, directory: Path) -> None:
        """Put it on the disk for good, with a checksum of itself."""
        content = asdict(self)
        sealed = {**content, CHECKSUM: _checksum(content)}
        write_durably(directory / MANIFEST, json.dumps(sealed, indent=1).encode())


def _checksum(content: dict[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def _form() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def unreadable(path: Path, error: OSError) -> StorageError:
    """What to raise where storage fails: that is no damage, and another attempt may be luckier."""
    return StorageError(
        f"{path} cannot be read: {error.strerror or error}; no checkpoint was skipped for it",
        "see that the volume of checkpoint.uri is sound and that the pod's user may read its files",
    )


def damaged(directory: Path, files: Mapping[str, Identity]) -> list[str]:
    """Which of these files are not what they were, in words.

    Raises:
        OSError: one may be whole, but cannot be read.
    """
    return [
        f"{directory / name} {found}"
        for name, expected in sorted(files.items())
        if (found := problem(directory / name, expected))
    ]
