"""Logs, metrics and the flight recorder: what the person who is paged has to go by."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from services.common.messages.events import TraceEvent

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


class FlightRecorder:
    """What happened to each of the last requests, in a bounded ring; `shoal trace` gathers it over the bus.

    ``wall_clock`` gives seconds since 1970: timelines of several services are merged by it.
    """

    def __init__(
        self,
        wall_clock: Callable[[], float] = time.time,
        *,
        max_requests: int = 4096,
        max_events: int = 256,
    ) -> None:
        self._clock, self._max_requests, self._max_events = wall_clock, max_requests, max_events
        self._events: OrderedDict[str, deque[TraceEvent]] = OrderedDict()

    def record(self, request_id: str, event: str, **fields: object) -> None:
        events = self._events.get(request_id)
        if events is None:
            events = self._events[request_id] = deque(maxlen=self._max_events)
            if len(self._events) > self._max_requests:
                self._events.popitem(last=False)
        events.append(TraceEvent(self._clock(), event, {k: str(v) for k, v in fields.items()}))

    def of(self, request_id: str) -> list[TraceEvent]:
        """Events of one request, or of all that belong to one client call (ids with this prefix)."""
        own = self._events.get(request_id)
        if own is not None:
            return list(own)
        found = [e for rid, events in self._events.items() if rid.startswith(request_id) for e in events]
        return sorted(found, key=lambda e: e.at_s)


class Metrics:
    """The process's Prometheus registry. Services make their counters with ``registry=metrics.registry``."""

    def __init__(self, service: str, version: str) -> None:
        self.registry = CollectorRegistry()
        info = Gauge("shoal_service_info", "1, labelled", ["service", "version"], registry=self.registry)
        info.labels(service, version).set(1)
