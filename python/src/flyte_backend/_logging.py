"""Logs as JSON, for machines, or as text. Inputs, outputs, job ids and secrets are never logged by this package."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any, TextIO

# The message of the record that tells how a call ended.
CALL = "call"

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _when(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    """What is logged may be somebody else's, whose arguments do not fit the text."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return str(record.msg)


class JSONFormatter(logging.Formatter):
    """A line of JSON for each record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _when(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
            **_extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, message, and what else there is as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        more = "".join(f" {key}={_shown(value)}" for key, value in _extras(record).items())
        line = f"{_when(record)} {record.levelname} {_message(record)}{more}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _shown(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n') else text


class _ToStandardError(logging.Handler):
    """To what standard error is at the time: notebooks and tests replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def show_failures() -> None:
    """Where nobody set up logging, as in a notebook and under pyflyte, show on standard error what plugins log, and their
    tracebacks. Calls that fail are left out: whoever made them is told.

    Without it, logging would show each record's bare message.
    """
    logger = logging.getLogger("flyte_backend")
    if not logger.hasHandlers():
        handler = _ToStandardError(logging.WARNING)
        handler.setFormatter(TextFormatter())
        handler.addFilter(lambda record: record.msg != CALL)
        logger.addHandler(handler)


def set_up(style: str, level: str, stream: TextIO = sys.stderr) -> None:
    """Send the whole process's log to a stream, as ``json`` or ``text``."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # What they tell of beginnings, ends and each request of a plugin, the service tells itself.
    for name in ("uvicorn", "uvicorn.error", "asyncio", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
