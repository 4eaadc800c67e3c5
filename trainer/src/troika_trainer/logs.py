"""Log lines: JSON where a machine reads them, sentences where a person does."""

import json
import logging
import sys
import time
from typing import Any

from rich.console import Console
from typing_extensions import override

from .place import Place

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    extra = {key: value for key, value in vars(record).items() if key not in _OWN}
    return {key: value for key, value in extra.items() if value is not None}


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message, rank, and the fields given as `extra`."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._bound = {"rank": place.rank, "attempt": place.attempt}

    @override
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **self._bound,
            **_fields(record),
        }
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Sentences(logging.Formatter):
    """`12:00:01 step  loss 2.345  tokens_per_second 1234`."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "  ".join(f"{key} {_short(value)}" for key, value in _fields(record).items())
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{clock} {level}{record.getMessage()}  {fields}".rstrip()


class Terminal(logging.Handler):
    """Prints lines above the progress bar, which tells of the steps."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self.setFormatter(Sentences())

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        return bool(super().filter(record)) and record.getMessage() != "step"

    @override
    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def configure(place: Place) -> Console | None:
    """Everything goes to stdout. The first rank tells the story, the others only what is wrong.

    Returns:
        The terminal, where a person sits at one.
    """
    console = Console() if sys.stdout.isatty() else None
    handler: logging.Handler
    if console:
        handler = Terminal(console)
    else:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(JsonLines(place))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    level = logging.INFO if place.is_first else logging.WARNING
    logging.getLogger("troika_trainer").setLevel(level)
    return console
