"""Checkpoints as directories: how they are called, which of them stay, how one is taken away.

`step-400` is a checkpoint. `step-400.tmp-TERM-815` is being written by process 815 of the attempt
with that term, and `step-400.tmp-TERM-old` is being removed by it.
"""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path

from troika_api.term import Term

log = logging.getLogger(__name__)

_COMMITTED = re.compile(r"step-(0|[1-9][0-9]*)")
"""Names that `path_of` gives; others are not ours."""


def path_of(directory: Path, step: int) -> Path:
    """Directory of the checkpoint of a step."""
    return directory / f"step-{step}"


def staged_of(directory: Path, step: int, term: Term) -> Path:
    """Where this process writes the checkpoint of a step."""
    return directory / f"step-{step}.tmp-{term}-{os.getpid()}"


def steps(directory: Path) -> list[int]:
    """Steps of all checkpoints that were committed.

    Raises:
        OSError: the directory cannot be read; it is not taken for an empty one.
    """
    names = os.listdir(directory)  # noqa: PTH208 - raises
    return [int(found[1]) for name in names if (found := _COMMITTED.fullmatch(name))]


def superfluous(
    found: Collection[int],
    *,
    committed: int,
    best: int | None,
    damaged: Collection[int],
    keep: int,
) -> list[int]:
    """Which checkpoints are not needed any more, now that one is committed.

    Args:
        found: Steps of all that are there.
        committed: Step of the one that has just been; it stays, whatever stands above it.
        best: Step of the best one; it stays too.
        damaged: Those that cannot be used: they go, and do not count.
        keep: How many of the others stay, the newest first.
    """
    good = sorted({*found} - ({*damaged} - {committed}), reverse=True)
    kept = {*good[:keep], committed, best}
    return [step for step in sorted(found) if step not in kept]


def remove(path: Path, by: Term) -> None:
    """Take a checkpoint or a staged one away: at once for whoever looks, then from the disk.

    Renamed first, because its writer may rename it at the same moment: one of both succeeds.

    Raises:
        FileNotFoundError: it is gone already.
    """
    doomed = path.with_name(f"{path.name.partition('.')[0]}.tmp-{by}-old")
    _wipe(doomed)
    path.rename(doomed)
    _wipe(doomed)


def replace(staged: Path, final: Path, by: Term) -> None:
    """Let a staged checkpoint appear, also where there is one of its step: a damaged one that was
    skipped, or one of an older attempt. Where it cannot, that one is as it was.

    Raises:
        OSError: the staged one is gone, for instance.
    """
    aside = final.with_name(f"{final.name}.tmp-{by}-old")
    _wipe(aside)
    with contextlib.suppress(FileNotFoundError):
        final.rename(aside)
    try:
        staged.rename(final)
    except OSError:
        with contextlib.suppress(OSError):
            aside.rename(final)
        raise
    _wipe(aside)


def remove_staged(directory: Path, by: Term) -> None:
    """Take away what earlier attempts, and this one before a restart, have left half-written."""
    for path in directory.glob("step-*.tmp-*"):
        owner = _term_of(path)
        if owner is not None and owner <= by:
            with contextlib.suppress(FileNotFoundError):
                remove(path, by)


def prune(directory: Path, doomed: Collection[int], by: Term) -> None:
    """Take checkpoints away that are superfluous; only warn where that fails."""
    for step in doomed:
        try:
            remove(path_of(directory, step), by)
        except FileNotFoundError:
            continue  # somebody else has pruned
        except OSError as error:
            log.warning("%s cannot be removed: %s", path_of(directory, step), error.strerror)


def _term_of(path: Path) -> Term | None:
    """Whose temporary directory this is; None where it is none of ours, so that it stays."""
    try:
        return Term.parse(path.name.partition(".tmp-")[2].rpartition("-")[0])
    except ValueError:
        return None


def _wipe(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
