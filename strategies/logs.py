"""Logs of the programs that run for long: lines to read, or one JSON object a line for machines."""

import json
import logging
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

Form = Literal["text", "json"]
_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, source, message, and whatever else the record was given."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "source": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up_logs(form: Form, quiet: bool = False) -> None:
    """Send fedbox's logs to stderr in one of the two forms; quiet leaves warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    handler.setFormatter(JsonLines() if form == "json" else text)
    logger = logging.getLogger("fedbox")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False


@lru_cache(maxsize=256)
def warn_once(logger: logging.Logger, text: str) -> None:
    """Log a warning, once a process: a comparison runs the same strategy with many seeds."""
    logger.warning("%s", text)
