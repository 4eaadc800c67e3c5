"""Checkpoints: written whole or not at all, found again, verified, fenced, pruned.

::

    <uri>/fence                      number of the newest attempt; an older one may not commit
    <uri>/step-400.tmp-2/            being written by attempt 2
    <uri>/step-400/manifest.json     progress, sizes and checksums; its directory was renamed last
    <uri>/step-400/*.distcp          weights and optimizer state (torch.distributed.checkpoint)

No random state is saved because there is none: every step seeds itself (`loop.py`).
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from troika_api.contract import SavedCheckpoint

from .distributed import Group
from .errors import CommunicationError, StorageError

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

    def note(self, scores: dict[str, float], best_by: str | None) -> bool:
        """Remember an evaluation of this step; True where it is the best by that metric so far."""
        self.evaluated_step = self.step
        self.history.append({"step": float(self.step), **scores})
        if best_by is None:
            return False
        score = -scores["loss"] if best_by == "loss" else scores[best_by]
        if self.best_score is not None and score <= self.best_score:
            return False
        self.best_step, self.best_score = self.step, score
        return True


@dataclass(frozen=True)
class Manifest:
    """What makes a directory a checkpoint."""

    progress: Progress
    attempt: int
    world_size: int
    time: float
    files: dict[str, tuple[int, str]]
    """Size in bytes and SHA-256 of every file."""
    versions: dict[str, str]


class Checkpoints:
    """The checkpoints of one run, in one directory on storage that all ranks see."""

    def __init__(self, directory: Path, *, keep: int, group: Group) -> None:
        self.directory = directory
        self._keep = keep
        self._group = group
        self._attempt = group.place.attempt

    def register(self) -> None:
        """Take over from older attempts, and remove what they left half-written.

        Raises:
            CommunicationError: a newer attempt is already running.
        """
        self._group.from_first(self._register)

    def check_ours(self) -> None:
        """Make sure that this attempt may still write.

        Raises:
            CommunicationError: a newer attempt has taken over.
        """
        self._group.from_first(self._check_fence)

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
    ) -> SavedCheckpoint:
        """Write a checkpoint of this step and commit it. All ranks call this together.

        Raises:
            StorageError: it could not be written; the older ones are untouched.
            CommunicationError: a newer attempt has taken over.
        """
        final = self._path(progress.step)
        staged = final.with_name(f"{final.name}.tmp-{self._attempt}")
        self._group.from_first(lambda: _make_empty(staged))
        weights, state = get_state_dict(model, optimizer)
        with _alone_without_warning():
            dcp_save(
                {"model": weights, "optimizer": state},
                storage_writer=FileSystemWriter(staged),
                no_dist=self._group.size == 1,
            )
        mine = staged.glob(f"__{self._group.place.rank}_*")
        parts = self._group.gather({path.name: _identity(path) for path in mine})
        files = {name: entry for part in parts for name, entry in part.items()}
        commit = self._group.from_first(lambda: self._commit(staged, final, files, progress))
        return self.described(commit)

    def newest(self) -> Manifest | None:
        """The newest checkpoint that is complete and undamaged; warns of those that are not."""
        for step in self._group.from_first(lambda: sorted(self._steps(), reverse=True)):
            manifest = self.verified(step)
            if manifest is not None:
                return manifest
        return None

    def verified(self, step: int) -> Manifest | None:
        """The checkpoint of a step, or None where it is damaged. The ranks share the reading."""
        manifest = self._group.from_first(lambda: _read_manifest(self._path(step)))
        if manifest is None:
            return None
        rank, size = self._group.place.rank, self._group.size
        share = sorted(manifest.files.items())[rank::size]
        damaged = [name for name, entry in share if not _intact(self._path(step) / name, entry)]
        for name in damaged:
            log.warning("checkpoint skipped: %s is damaged", self._path(step) / name)
        return None if self._group.any(bool(damaged)) else manifest

    def load(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Read weights, and optimizer state where an optimizer is given, in place."""
        state: dict[str, Any] = {}
        if optimizer is None:
            state["model"] = get_model_state_dict(model)
        else:
            state["model"], state["optimizer"] = get_state_dict(model, optimizer)
        with _alone_without_warning():
            dcp_load(
                state,
                storage_reader=FileSystemReader(self._path(step)),
                no_dist=self._group.size == 1,
            )
        if optimizer is None:
            set_model_state_dict(model, state["model"])
        else:
            set_state_dict(
                model,
                optimizer,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
            )

    def described(self, manifest: Manifest) -> SavedCheckpoint:
        """The checkpoint as the status shows it."""
        path = self._path(manifest.progress.step)
        return SavedCheckpoint(step=manifest.progress.step, time=manifest.time, path=str(path))

    def _path(self, step: int) -> Path:
        return self.directory / f"step-{step}"

    def _steps(self) -> list[int]:
        names = [path.name.removeprefix("step-") for path in self.directory.glob("step-*")]
        return [int(name) for name in names if name.isdigit()]

    def _register(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._check_fence()
        _write_durably(self.directory / "fence", str(self._attempt))
        for path in self.directory.glob("step-*.tmp-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _check_fence(self) -> None:
        try:
            newest = int((self.directory / "fence").read_text())
        except FileNotFoundError:
            return
        if newest > self._attempt:
            raise CommunicationError(
                f"attempt {newest} has taken over {self.directory}; this is attempt {self._attempt}"
            )

    def _commit(
        self, staged: Path, final: Path, files: dict[str, tuple[int, str]], progress: Progress
    ) -> Manifest:
        files[".metadata"] = _identity(staged / ".metadata")
        manifest = Manifest(
            progress=progress,
            attempt=self._attempt,
            world_size=self._group.size,
            time=time.time(),
            files=files,
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
        )
        _write_durably(staged / MANIFEST, json.dumps(asdict(manifest), indent=1))
        self._check_fence()
        if final.exists():  # a damaged one that was skipped, or one that an older attempt made
            shutil.rmtree(final)
        staged.rename(final)
        _sync(self.directory)
        for step in sorted(self._steps(), reverse=True)[self._keep :]:
            if step != progress.best_step:
                shutil.rmtree(self._path(step), ignore_errors=True)
        return manifest


@contextlib.contextmanager
def _alone_without_warning() -> Iterator[None]:
    """A run on one rank has no process group, and that is no news."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _make_empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _identity(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return path.stat().st_size, digest


def _intact(path: Path, entry: tuple[int, str]) -> bool:
    try:
        return path.stat().st_size == entry[0] and _identity(path) == tuple(entry)
    except OSError:
        return False


def _read_manifest(directory: Path) -> Manifest | None:
    try:
        content = json.loads((directory / MANIFEST).read_text())
        progress = Progress(**content.pop("progress"))
        return Manifest(progress=progress, **content)
    except (OSError, ValueError, TypeError) as error:
        log.warning("checkpoint skipped: %s: %s", directory / MANIFEST, error)
        return None


def _write_durably(path: Path, text: str) -> None:
    """Write a small file that is whole or not there, even after a power cut."""
    staged = path.with_name(path.name + ".tmp")
    with staged.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoint_directory(uri: str) -> Path:
    """The directory for checkpoints.

    Raises:
        StorageError: it is not on a mounted file system, where a rename is atomic.
    """
    if "://" in uri and not uri.startswith("file://"):
        raise StorageError(
            f"checkpoint.uri {uri}: checkpoints need a mounted file system",
            "use pvc://CLAIM/PATH or a path, and an object store for data and output only",
        )
    return Path(uri.removeprefix("file://"))
