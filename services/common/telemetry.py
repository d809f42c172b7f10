"""Metrics and the flight recorder: what the person who is paged has to go by, beside the logs."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from services.common.messages.events import TraceEvent


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
