"""A finished directory goes where readers look for it: first on the disk, then there.

::

    <parent>/.model.tmp-TERM-9f31c07a/    being written by the attempt with this term
    <parent>/.model.old-TERM-9f31c07a/    what was at <parent>/model, until the new one is
    <target>/.tmp-TERM-9f31c07a/          the same in a mount point or an object store

A directory on a disk is written beside its target and renamed: whoever looks sees the old one or
the new one. A mount point, a directory that is all one may write to, one that holds what is not
ours, such as the checkpoints of the run, and what is in an object store cannot be renamed: there
the files are staged inside and moved one by one. `FIRST_READ` goes away before the others and
comes after them, so that a reader finds the old files, no model, or the new ones, and never some
of each.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from typing_extensions import override

from troika_api.term import Term

from .integrity import SUMS, seal, sync_directory

FIRST_READ = ("model.safetensors.index.json", "adapter_config.json", "config.json")
"""What `from_pretrained` looks for before it looks at anything else."""
_LEFT = re.compile(r"\.(tmp|old)-(.+)-[0-9a-f]+$")


class Delivery(ABC):
    """One directory on its way. Errors are those of the storage, as they come."""

    directory: Path
    """Where to write what is to be delivered."""

    def __init__(self, uri: str, term: Term) -> None:
        self.uri = uri
        self.term = term

    @abstractmethod
    def begin(self) -> None:
        """Make `directory`, and remove what dead attempts left; never what is of a later one."""

    @abstractmethod
    def settle(self) -> None:
        """All is written: have it where a power cut does no harm. This may take minutes."""

    @abstractmethod
    def publish(self) -> None:
        """Put it where readers look, in place of what is there."""

    @abstractmethod
    def clean_up(self) -> None:
        """Whether it was published or not: leave nothing of this delivery beside it."""

    def _is_left(self, name: str, kind: str) -> bool:
        """Whether a name is of this or an earlier attempt, whose processes are dead by now."""
        found = _LEFT.search(name)
        try:
            return found is not None and found[1] == kind and Term.parse(found[2]) <= self.term
        except ValueError:
            return False  # somebody else's


def delivery_to(uri: str, *, term: Term, token: str) -> Delivery:
    """How to deliver to a place.

    Args:
        uri: A directory, on a disk or wherever fsspec reaches.
        term: Who delivers.
        token: Some random hexadecimal digits, which tell this delivery from all others.
    """
    filesystem, path = fsspec.core.url_to_fs(uri)
    if not isinstance(filesystem, LocalFileSystem):
        return _Inside(uri, term, token, filesystem, path)
    target = Path(path)
    closed = target.is_dir() and not os.access(target.parent, os.W_OK, effective_ids=True)
    if target.is_mount() or closed or _holds_more(target):
        return _Inside(uri, term, token, filesystem, path)
    return _Beside(uri, term, token, target)


def _holds_more(target: Path) -> bool:
    """Whether files are there that no delivery has made: a directory is replaced as a whole."""
    if not target.is_dir():
        return False
    try:
        return not _files(target) <= _delivered(target)
    except OSError:
        return True  # what cannot be looked at is not ours to remove


def _files(directory: Path) -> set[str]:
    found = (path for path in directory.rglob("*") if not path.is_dir())
    return {path.relative_to(directory).as_posix() for path in found}


def _delivered(directory: Path) -> set[str]:
    try:
        return {SUMS, *json.loads((directory / SUMS).read_text())}
    except (FileNotFoundError, ValueError):
        return {SUMS}


class _Beside(Delivery):
    """On a disk: renamed."""

    def __init__(self, uri: str, term: Term, token: str, target: Path) -> None:
        super().__init__(uri, term)
        self._target = target
        self.directory = target.with_name(f".{target.name}.tmp-{term}-{token}")
        self._old = target.with_name(f".{target.name}.old-{term}-{token}")

    @override
    def begin(self) -> None:
        self._remove_left("tmp")
        self.directory.mkdir(parents=True)

    @override
    def settle(self) -> None:
        seal(self.directory)

    @override
    def publish(self) -> None:
        if self._target.exists():
            self._target.rename(self._old)
        try:
            self.directory.rename(self._target)
        except OSError:
            if self._old.exists():
                self._old.rename(self._target)
            raise
        sync_directory(self._target.parent)
        self._remove_left("old")

    @override
    def clean_up(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)  # a full disk needs no half of it

    def _remove_left(self, kind: str) -> None:
        prefix = f".{self._target.name}.{kind}-"
        for path in self._target.parent.glob(f".*.{kind}-*"):
            if path.name.startswith(prefix) and self._is_left(path.name, kind):
                shutil.rmtree(path, ignore_errors=True)


class _Inside(Delivery):
    """In a mount point or an object store: moved file by file.

    Until `publish` nothing that a reader sees has changed. Where that fails in the middle there is
    no model, which the next attempt mends; a job has not succeeded before all of it is there.
    """

    def __init__(
        self, uri: str, term: Term, token: str, filesystem: fsspec.AbstractFileSystem, target: str
    ) -> None:
        super().__init__(uri, term)
        self._filesystem, self._target = filesystem, target.rstrip("/")
        self._staged = f"{self._target}/.tmp-{term}-{token}"
        self._is_local = isinstance(filesystem, LocalFileSystem)
        scratch = Path(tempfile.gettempdir()) / f"troika-export-{term}-{token}"
        self.directory = Path(self._staged) if self._is_local else scratch

    @override
    def begin(self) -> None:
        for path in self._there():
            if self._is_left(path, "tmp"):
                self._filesystem.rm(path, recursive=True)
        self.directory.mkdir(parents=True)

    @override
    def settle(self) -> None:
        seal(self.directory)
        if not self._is_local:
            self._filesystem.put(f"{self.directory}/", self._staged, recursive=True)

    @override
    def publish(self) -> None:
        files = [path for path in self.directory.rglob("*") if path.is_file()]
        names = [path.relative_to(self.directory).as_posix() for path in files]
        there = {PurePosixPath(path).name for path in self._there()}
        for name in (*reversed(FIRST_READ), *sorted(self._earlier() - set(names))):
            if name in there or "/" in name:
                with contextlib.suppress(FileNotFoundError):
                    self._filesystem.rm_file(f"{self._target}/{name}")
        last = [SUMS, *FIRST_READ]
        for name in sorted(names, key=lambda name: last.index(name) if name in last else -1):
            self._move(name)
        if self._is_local:
            for folder in {Path(self._target, name).parent for name in names}:
                sync_directory(folder)

    @override
    def clean_up(self) -> None:
        if not self._is_local:
            shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(OSError):  # what went wrong before is what must be told
            if self._filesystem.exists(self._staged):
                self._filesystem.rm(self._staged, recursive=True)

    def _move(self, name: str) -> None:
        target = f"{self._target}/{name}"
        if self._is_local and "/" in name:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        self._filesystem.mv(f"{self._staged}/{name}", target)

    def _there(self) -> list[str]:
        self._filesystem.invalidate_cache()
        try:
            found: list[str] = self._filesystem.ls(self._target, detail=False)
        except FileNotFoundError:
            return []
        return found

    def _earlier(self) -> set[str]:
        """Files of the model that is there: other files of the volume are nobody's business here.

        Weights that stayed behind would be read in place of the new ones.
        """
        try:
            names = json.loads(self._filesystem.cat_file(f"{self._target}/{SUMS}"))
        except (FileNotFoundError, ValueError):
            return set()
        return {name for name in names if ".." not in PurePosixPath(name).parts}
