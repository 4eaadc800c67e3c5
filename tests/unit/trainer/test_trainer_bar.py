"""The progress bar: on the last line of a terminal, below whole log lines, and nowhere else."""

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from rich.console import Console

from troika_api.contract import TrainerStatus
from troika_trainer.bar import Bar, numbers
from troika_trainer.logs import Terminal

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

PROGRAM = """
import logging
from troika_api.contract import TrainerStatus
from troika_trainer import logs
from troika_trainer.bar import Bar
from troika_trainer.place import Place

terminal = logs.configure(Place())
log = logging.getLogger("troika_trainer")
bar = Bar(terminal) if terminal else None
if bar:
    bar.start(step=0, total=2)
log.info("step", extra={"step": 1})
log.info("validation", extra={"loss": 2.5})
if bar:
    bar.step(TrainerStatus(step=2, loss=1.5))
    bar.stop()
log.info("model exported")
"""


def screen(output: str) -> list[str]:
    """What stands on the lines of a terminal in the end: an erased line starts anew."""
    lines = [
        re.split(r"\r|\x1b\[2K", line)[-1] for line in output.replace("\r\n", "\n").split("\n")
    ]
    return [text for line in lines if (text := ESCAPE.sub("", line).strip())]


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, Bar, io.StringIO]]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    handler, logger = Terminal(console), logging.getLogger("troika_trainer.bar_test")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield logger, Bar(console), output
    logger.removeHandler(handler)


def test_log_lines_stand_above_the_bar(log: tuple[logging.Logger, Bar, io.StringIO]) -> None:
    logger, bar, output = log
    bar.start(step=2, total=10)
    for step in range(3, 8):
        bar.step(TrainerStatus(step=step, loss=2.0, tokens_per_second=12_345.0, eta_seconds=65.4))
        logger.info("validation [bold] %d", step)
    bar.stop()
    logger.info("done")
    *lines, last, after = screen(output.getvalue())
    assert [line[9:] for line in lines] == [f"validation [bold] {step}" for step in range(3, 8)]
    assert re.fullmatch(r"step [━╺╸]+ +7/10 loss 2.0000  12.3k tokens/s  1:05 left", last)
    assert after.endswith("done")


def test_steps_are_told_by_the_bar_alone(log: tuple[logging.Logger, Bar, io.StringIO]) -> None:
    logger, _, output = log
    logger.info("step", extra={"step": 1})
    assert output.getvalue() == ""


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (TrainerStatus(), ""),
        (TrainerStatus(loss=0.5), "loss 0.5000"),
        (TrainerStatus(tokens_per_second=999.6), "1000 tokens/s"),
        (TrainerStatus(eta_seconds=3723.0), "1:02:03 left"),
    ],
)
def test_numbers_that_are_known(status: TrainerStatus, text: str) -> None:
    assert numbers(status) == text


def test_a_person_at_a_terminal_sees_it() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        stdout=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        output = b""
        while part := read(ours):
            output += part
        assert process.wait(60) == 0
    os.close(ours)
    first, bar, last = screen(output.decode())
    assert first.endswith("validation  loss 2.5")
    assert bar.endswith("2/2 loss 1.5000")
    assert last.endswith("model exported")
    assert output.count(b"\x1b[?25l") == output.count(b"\x1b[?25h")  # the cursor is back


def read(terminal: int) -> bytes:
    """What comes next; nothing where the other side has closed."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_a_pod_gets_lines_of_json_and_no_bar() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    messages = [json.loads(line)["message"] for line in done.stdout.splitlines()]
    assert messages == ["step", "validation", "model exported"]
    assert "\x1b" not in done.stdout
