"""Logs: one line per record, with the service's name on it.

Apart from the rest of telemetry because the worker's ranks, which start often and have no metrics, need no more.
"""

from __future__ import annotations

import json
import logging
import sys
import time

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogFormatter(logging.Formatter):
    """One line per record: time, level, service, message and every ``extra`` field, as text or JSON."""

    def __init__(self, service: str, instance_id: str, *, as_json: bool) -> None:
        super().__init__()
        self._service, self._instance_id, self._as_json = service, instance_id, as_json

    def format(self, record: logging.LogRecord) -> str:
        extra = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        message = record.getMessage()
        if record.exc_info:
            extra["exception"] = self.formatException(record.exc_info)
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        if self._as_json:
            head = {"at": at, "level": record.levelname.lower(), "service": self._service}
            return json.dumps(head | {"instance": self._instance_id, "event": message} | extra, default=str)
        tail = "".join(f" {k}={_text(v)}" for k, v in extra.items() if k != "exception")
        line = f"{at} {record.levelname[0]} {self._service}/{self._instance_id} {message}{tail}"
        return line + ("\n" + extra["exception"] if "exception" in extra else "")


def _text(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or any(c.isspace() or c == '"' for c in text) else text


def setup_logging(service: str, instance_id: str, *, level: str = "info", log_format: str = "text") -> None:
    """Sends all logs of the process to stderr, one line each. Called once, by the bootstrap."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter(service, instance_id, as_json=log_format == "json"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "uvicorn.access", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
