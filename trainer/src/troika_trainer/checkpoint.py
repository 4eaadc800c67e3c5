"""Checkpoints: written beside the training, whole or not at all; found again, verified, fenced.

::

    <uri>/terms/                     who has owned this; the greatest may commit (`fence.py`)
    <uri>/step-400.tmp-TERM-815/     being written by the attempt with this term
    <uri>/step-400/manifest.json     progress, sizes and checksums; its directory was renamed last
    <uri>/step-400/*.distcp          weights and optimizer state (torch.distributed.checkpoint)

A save copies the state to shared memory; `writer.py` does the rest in a process of its own. No
random state is saved because there is none: every step seeds itself (`loop.py`).
"""

import logging
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load

from troika_api.contract import SavedCheckpoint

from .directories import path_of, remove_staged, staged_of, steps
from .distributed import Group
from .errors import StorageError
from .fence import Fence
from .integrity import Identity
from .lineage import Lineage, check
from .manifest import Manifest, Progress, damaged, unreadable
from .saver import Saver
from .staging import Staging
from .writer import Request

log = logging.getLogger(__name__)

TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)
"""A checkpoint holds what is trained; what is frozen comes from where the run started."""


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is complete, and what it cost; times in seconds."""

    checkpoint: SavedCheckpoint
    blocked: float
    """For how long the loop stood still."""
    written: float
    """From the first byte to the commit."""


class Checkpoints:
    """The checkpoints of one run, in one directory on storage that all ranks see."""

    def __init__(self, directory: Path, *, keep: int, group: Group) -> None:
        self.directory = directory
        self.lineage: Lineage = {}
        """Of the run; it goes into every manifest. Not known before the data is prepared."""
        self._keep = keep
        self._group = group
        self._term = group.place.term
        self._fence = Fence(directory, self._term)
        self._damaged: set[int] = set()
        """Steps of those that were skipped: the next commit removes them."""
        self._saver = Saver()
        self._staging: Staging | None = None
        self._blocked = 0.0

    def register(self) -> None:
        """Take over from older attempts, and remove what they left half-written.

        Raises:
            CommunicationError: a newer attempt is already running.
            ConfigError: a newer job has this checkpoint.uri.
        """
        self._group.from_first(self._register)

    def check_ours(self) -> None:
        """Make sure that this attempt may still write.

        Raises:
            CommunicationError: a newer attempt has taken over.
            ConfigError: a newer job has.
        """
        self._group.from_first(self._fence.check)

    # ------------------------------------------------------------------------------- writing

    @property
    def in_flight(self) -> bool:
        """Whether this rank is still writing."""
        return self._saver.busy

    def warm_up(self) -> None:
        """A save is near: start the process that will write it, if there is none."""
        if not self._saver.started:
            self._saver.start()

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        *,
        wait: bool = False,
    ) -> None:
        """Begin to copy this step and to write it. All ranks call this together.

        Nothing may change the weights or the optimizer before `copied` has returned.

        Args:
            model: Weights to save.
            optimizer: State to save.
            progress: The rest of what a resume needs.
            wait: Return only when the checkpoint is committed.

        Raises:
            StorageError: it could not be written; the older ones are untouched.
            CommunicationError: a newer attempt has taken over.
            ConfigError: a newer job has.
        """
        started = time.monotonic()
        self._saver.wait()
        staged = self._group.from_first(lambda: self._make_staged(progress.step))
        weights, states = get_state_dict(model, optimizer, options=TRAINED)
        state = {"model": weights, "optimizer": states}
        if self._staging is None:
            self._staging = Staging.plan(state, self._group)
        self._saver.begin(self._staging, self._request(staged, progress), state)
        if wait:
            self._saver.wait()
            self._group.gather(None)  # the first rank has committed when it comes here
        else:
            self.warm_up()  # for the next one
        self._blocked = time.monotonic() - started

    def copied(self) -> None:
        """Wait until weights and optimizer may change again: the copy was made beside the loop.

        Raises:
            StorageError: it could not be written; the older ones are untouched.
        """
        started = time.monotonic()
        self._saver.copied()
        self._blocked += time.monotonic() - started

    def finished(self) -> Saved | None:
        """The checkpoint that was completed since this was last asked.

        Raises:
            StorageError: it could not be written; the older ones are untouched.
            CommunicationError: a newer attempt has taken over.
            ConfigError: a newer job has.
        """
        answer = self._saver.poll()
        if answer is None:
            return None
        return Saved(self.described(answer.manifest), self._blocked, answer.seconds)

    def settle(self) -> None:
        """Wait until this rank has nothing in flight."""
        self._saver.wait()

    def close(self) -> None:
        """Nothing more will be saved: end the process that writes."""
        self._saver.close()

    def _make_staged(self, step: int) -> Path:
        staged = staged_of(self.directory, step, self._term)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        return staged

    def _request(self, staged: Path, progress: Progress) -> Request:
        self._damaged.discard(progress.step)  # this one takes its place
        manifest = Manifest(
            progress=progress.copy(),  # the loop goes on with its own
            attempt=self._term.attempt,
            term=str(self._term),
            lineage=self.lineage,
            world_size=self._group.size,
            time=time.time(),
            versions={"torch": torch.__version__, "transformers": transformers.__version__},
        )
        return Request(
            staged=staged,
            final=path_of(self.directory, progress.step),
            manifest=manifest,
            rank=self._group.place.rank,
            term=self._term,
            keep=self._keep,
            damaged=frozenset(self._damaged),
            small={},
        )

    # ------------------------------------------------------------------------------- reading

    def newest(self) -> Manifest | None:
        """The newest checkpoint that is complete and undamaged; warns of those that are not.

        Returns:
            None where there never was one.

        Raises:
            StorageError: there are some, and none can be used or read: that is no reason to begin
                at step 0.
            DataError: the newest is of a run with other data.
            ConfigError: the newest is of a run that differs in something else.
        """
        found = self.steps()[::-1]
        for step in found:
            manifest = self.verified(step)
            if manifest is not None:
                check(manifest.lineage, self.lineage, checkpoint=path_of(self.directory, step))
                return manifest
        if found:
            names = ", ".join(path_of(self.directory, step).name for step in found)
            raise StorageError(
                f"no checkpoint in {self.directory} can be used; damaged are {names}",
                "restore one of them, remove them to start at step 0, or give the run another "
                "checkpoint.uri",
            )
        return None

    def steps(self) -> list[int]:
        """Steps of all checkpoints that are there, damaged ones among them."""
        return self._group.from_first(lambda: sorted(steps(self.directory)))

    def verified(self, step: int) -> Manifest | None:
        """The checkpoint of a step, or None where it is damaged. The ranks share the reading.

        Raises:
            StorageError: it cannot be read.
        """
        directory = path_of(self.directory, step)
        manifest = self._group.from_first(lambda: Manifest.read(directory))
        if manifest is not None:
            rank, size = self._group.place.rank, self._group.size
            share = dict(sorted(manifest.files.items())[rank::size])
            found = self._group.gather(_looked_at(directory, share))
            for problem in found[rank].problems:
                log.warning("checkpoint skipped: %s", problem)
            for looked in found:
                if looked.error is not None:
                    raise looked.error
            if not any(looked.problems for looked in found):
                return manifest
        self._damaged.add(step)
        return None

    def load(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Read weights, and optimizer state where an optimizer is given, in place."""
        state: dict[str, Any] = {}
        if optimizer is None:
            state["model"] = get_model_state_dict(model, options=TRAINED)
        else:
            state["model"], state["optimizer"] = get_state_dict(model, optimizer, options=TRAINED)
        with warnings.catch_warnings():
            # A run on one rank has no process group, and that is no news.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp_load(
                state,
                storage_reader=FileSystemReader(path_of(self.directory, step)),
                no_dist=self._group.size == 1,
            )
        if optimizer is None:
            set_model_state_dict(model, state["model"], options=TRAINED)
        else:
            set_state_dict(
                model,
                optimizer,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
                options=TRAINED,
            )

    def described(self, manifest: Manifest) -> SavedCheckpoint:
        """The checkpoint as the status shows it."""
        path = path_of(self.directory, manifest.progress.step)
        return SavedCheckpoint(step=manifest.progress.step, time=manifest.time, path=str(path))

    def _register(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._fence.register()
        remove_staged(self.directory, self._term)


@dataclass(frozen=True)
class _Looked:
    """What one rank has found in its share of the files."""

    problems: list[str]
    error: StorageError | None = None


def _looked_at(directory: Path, files: dict[str, Identity]) -> _Looked:
    try:
        return _Looked(damaged(directory, files))
    except OSError as error:  # told to all ranks, which would wait for this one
        return _Looked([], unreadable(Path(error.filename or directory), error))


def checkpoint_directory(uri: str, field: str = "checkpoint.uri") -> Path:
    """The directory for checkpoints, or for something else that appears whole or not at all.

    Raises:
        StorageError: it is not on a mounted file system, where a rename is atomic.
    """
    if "://" in uri and not uri.startswith("file://"):
        raise StorageError(
            f"{field} {uri}: expected a mounted file system, where a rename is atomic",
            "use pvc://CLAIM/PATH or a path, and an object store for data and output only",
        )
    return Path(uri.removeprefix("file://"))
