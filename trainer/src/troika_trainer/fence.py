"""The fence of a directory of checkpoints: only the greatest term that stands there may write.

::

    <uri>/terms/20261124T120000Z-1a2b3c4d-00002    empty; made once and never written again

A term is added and never replaced, so that two who register at the same time both see the greater
one, whoever was faster.
"""

import contextlib
import os
from pathlib import Path

from troika_api.term import Term

from .errors import CommunicationError, ConfigError
from .integrity import sync_directory

TERMS = "terms"


class Fence:
    """What one attempt sees of it."""

    def __init__(self, directory: Path, term: Term) -> None:
        self._directory = directory
        self._folder = directory / TERMS
        self._term = term

    def register(self) -> None:
        """Take over from all that came before.

        Raises:
            CommunicationError: a newer attempt of this job is already running.
            ConfigError: a newer job writes here.
        """
        self.check()
        self.announce()
        self.check()
        self._tidy()

    def announce(self) -> None:
        """Add this term, for good; the same attempt may start again in place."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._folder / str(self._term), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        sync_directory(self._folder)
        sync_directory(self._directory)

    def check(self) -> None:
        """Look whether this attempt may still write.

        Raises:
            CommunicationError: a newer attempt of this job has taken over.
            ConfigError: a newer job has.
        """
        newest = max(self._registered(), default=self._term)
        if newest <= self._term:
            return
        if newest.same_resource(self._term):
            raise CommunicationError(
                f"attempt {newest.attempt} has taken over {self._directory}; "
                f"this is attempt {self._term.attempt}"
            )
        raise ConfigError(
            f"{newest.owner()} has taken over {self._directory}; this is {self._term.owner()}",
            "give each job a checkpoint.uri of its own"
            if not self._term.is_by_hand
            else "give this run a checkpoint.uri of its own; to go on by hand with what a job has "
            f"begun, delete the job and then {self._folder}",
        )

    def _registered(self) -> list[Term]:
        try:
            os.utime(self._folder)  # NFS may show what was there a minute ago, unless it is changed
            names = os.listdir(self._folder)  # noqa: PTH208 - only names are wanted
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            with contextlib.suppress(ValueError):  # not ours
                found.append(Term.parse(name))
        return found

    def _tidy(self) -> None:
        for term in self._registered():
            if term < self._term:
                (self._folder / str(term)).unlink(missing_ok=True)
