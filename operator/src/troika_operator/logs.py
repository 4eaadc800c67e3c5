"""One line of JSON per log record, or text for people who run the operator by hand."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from typing_extensions import override


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message; the traceback, where there is one."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(form: Literal["json", "text"], level: str) -> None:
    """Log to standard error. kopf tells of every event at INFO: only its warnings are of use."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("kopf", "aiohttp.access", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    # At its end kopf lists every object whose events it did not finish; the next start sees them.
    logging.getLogger("kopf._core.reactor.queueing").setLevel(logging.ERROR)
