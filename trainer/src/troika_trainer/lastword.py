"""The pod's last word: made from how its processes ended, where the kubelet reads it."""

import json
import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from troika_api import contract
from troika_api.contract import CLASS_OF_EXIT_CODE, ExitCode, FailureClass, LastWord, Score

from .errors import EXIT_CODE_OF_CLASS, EXIT_CRASH, Verdict

log = logging.getLogger(__name__)

MOST_CLASSES = 100
"""Classes whose scores a job's status has room for."""


@dataclass(frozen=True)
class ProcessEnd:
    """How one process ended."""

    rank: int
    exit_code: int | None
    """As subprocess has it: -n for signal n, None where it still runs."""
    error_file: Path

    def word(self) -> LastWord:
        """What the process said of its end, or what its exit code says where it could not."""
        try:
            body = json.loads(self.error_file.read_text())
            return LastWord.model_validate_json(body["message"]["extraInfo"]["word"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return self._guessed()

    def success(self) -> LastWord | None:
        """What the process left when it succeeded."""
        try:
            return LastWord.model_validate_json(self.error_file.with_name("word.json").read_text())
        except (OSError, ValidationError):
            return None

    def _guessed(self) -> LastWord:
        code = self.exit_code if self.exit_code is not None else -signal.SIGKILL
        if code == ExitCode.TERMINATED or -code == signal.SIGTERM:
            return LastWord(outcome="Terminated", rank=self.rank, time=time.time())
        failure = CLASS_OF_EXIT_CODE.get(code, FailureClass.CRASH)
        message = f"rank {self.rank} exited with code {code}"
        if code < 0:
            message = f"rank {self.rank} was killed by {signal.Signals(-code).name}"
        remedy = None
        if -code == signal.SIGKILL:
            remedy = "if nobody killed it, the node or the container ran out of memory"
        return LastWord(
            outcome="Failed",
            failure=failure,
            message=message,
            remedy=remedy,
            rank=self.rank,
            time=time.time(),
        )


def conclude(ends: list[ProcessEnd]) -> tuple[LastWord, int]:
    """The word and the exit code of a node whose processes have ended so."""
    bad = [end for end in ends if end.exit_code != 0]
    if ends and not bad:
        found = next((word for end in ends if (word := end.success())), None)
        return found or LastWord(outcome="Succeeded", time=time.time()), ExitCode.OK
    words = {end.rank: end.word() for end in bad}
    failures = [word for word in words.values() if word.outcome == "Failed"]
    if not failures:
        first = words.get(min(words)) if words else None
        return first or LastWord(outcome="Terminated", time=time.time()), ExitCode.TERMINATED
    word = min(failures, key=_blame)
    code = next(end.exit_code for end in bad if end.rank == word.rank) or EXIT_CRASH
    return word, code if code > 0 else 128 - code


def peers_lost(reason: str, ends: list[ProcessEnd]) -> tuple[LastWord, int]:
    """The word of a node that cannot meet the others: a consequence, unless it knows better."""
    if any(end.exit_code not in (None, 0) for end in ends):
        word, code = conclude(ends)
        if word.failure is not FailureClass.CRASH:
            return word, code
    found = Verdict(
        FailureClass.COMMUNICATION,
        EXIT_CODE_OF_CLASS[FailureClass.COMMUNICATION],
        f"lost the other nodes: {reason}"[:1000],
    )
    return failed(found), found.exit_code


def failed(found: Verdict) -> LastWord:
    """The word for a failure that no process of this node had."""
    return LastWord(
        outcome="Failed" if found.failure else "Terminated",
        failure=found.failure,
        message=found.message[:1500],
        remedy=found.remedy,
        time=time.time(),
    )


def _blame(word: LastWord) -> tuple[bool, float]:
    """A broken connection is what the others see of a failure: the cause comes first."""
    return word.failure is FailureClass.COMMUNICATION, word.time


def write(word: LastWord) -> None:
    """Put the word where the kubelet looks, in few enough bytes."""
    named = os.environ.get(contract.ENV_TERMINATION_LOG)
    path = Path(named or contract.TERMINATION_LOG)
    if not named and not path.exists():
        return
    try:
        path.write_text(_fitting(word))
    except OSError as error:
        log.warning("cannot write the last word to %s: %s", path, error.strerror)


def _fitting(word: LastWord) -> str:
    """The word as JSON; what is least missed goes first where it is too long."""
    limit = contract.MAX_TERMINATION_MESSAGE_BYTES - 1
    word = _with_largest(word, MOST_CLASSES)
    text = word.to_json()
    while len(text.encode()) > limit and word.evaluation and word.evaluation.classes:
        word = _with_largest(word, len(word.evaluation.classes) - 1)
        text = word.to_json()
    while len(text.encode()) > limit and word.message:
        word = word.model_copy(update={"message": word.message[: len(word.message) // 2]})
        text = word.to_json()
    return text


def _with_largest(word: LastWord, kept: int) -> LastWord:
    """The word with the scores of the classes that have the most rows, in the order they had."""
    if word.evaluation is None:
        return word
    classes = word.evaluation.classes
    largest = sorted(range(len(classes)), key=lambda number: -classes[number].support)[:kept]
    shown = [_rounded(classes[number]) for number in sorted(largest)]
    return word.model_copy(
        update={"evaluation": word.evaluation.model_copy(update={"classes": shown})}
    )


def _rounded(score: Score) -> Score:
    """With as many digits as a job's status shows."""
    return score.model_copy(
        update={
            "precision": round(score.precision, 4),
            "recall": round(score.recall, 4),
            "f1": round(score.f1, 4),
        }
    )
