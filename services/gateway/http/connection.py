"""One client connection: uvicorn's, with limits on what it may hold here and for how long, and an end without loss."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from services.common.errors import BadRequest, HeadTooLarge, RequestTimeout, ShoalError, Unavailable
from services.gateway.http.sse import error_response

HEADER_OVERHEAD = 32  # bytes that each header counts beside its own, as in RFC 7541: about what it costs us
READ_TIMEOUT_S = 20.0  # for a request's head, and more for its body by this rate:
MIN_BODY_RATE = 16 * 1024  # bytes a second
LINGER_S = 1.0  # for which a client may still send (and, in a drain, ask) before its connection is closed


@dataclass(slots=True)
class ConnectionRules:
    """What all connections of a server share. ``on_refused`` is told the status of what was answered here."""

    max_connections: int
    max_header_bytes: int
    on_refused: Callable[[int], None]
    is_draining: bool = False


class Connection(HttpToolsProtocol):
    """Answers 431, 408, 400 and 503 by itself, where a request does not get as far as the application."""

    def __init__(self, *args: Any, rules: ConnectionRules, **named: Any) -> None:
        super().__init__(*args, **named)
        self._rules = rules
        self._error: ShoalError | None = None  # why nothing more is read here
        self._num_header_bytes = 0
        self._num_body_bytes = 0
        self._num_unparsed = (
            0  # bytes since the parser last found something: a header or chunk extension without end
        )
        self._has_begun = False  # some of a request has arrived, and not all
        self._arriving_since = self._quiet_since = self.loop.time()
        self._arrival_timer: asyncio.TimerHandle | None = None

    # -- what the transport says -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arrival_timer = self.loop.call_later(READ_TIMEOUT_S, self._on_overdue)
        limit = self._rules.max_connections
        if len(self.connections) > limit:
            self._refuse(Unavailable(f"this gateway has its {limit} connections open", retry_after_s=1))

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return  # it is read all the same: unread data would make the close a reset, and the answer could be lost
        if not self._has_begun:
            self._expect_rest()
        self._num_unparsed += len(data)
        super().data_received(data)
        if self._error is None and self._num_header_bytes + self._num_unparsed > self._rules.max_header_bytes:
            self._error = self._head_too_large()
        if self._error is not None:
            self._refuse(self._error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    # -- what the parser finds -------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._num_header_bytes = self._num_body_bytes = self._num_unparsed = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count_header(len(url))
        if self._error is None:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_header(len(name) + len(value) + HEADER_OVERHEAD)
        if self._error is None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._num_unparsed = 0
        if self._error is None:
            super().on_headers_complete()
            if self._rules.is_draining:
                self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._num_unparsed = 0
        self._num_body_bytes += len(body)
        if self._error is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._error is None:
            self._has_begun = False
            self._num_unparsed = 0
            self._stop_timer()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._quiet_since = self.loop.time()
        super().on_response_complete()

    # -- the end, without loss -------------------------------------------------------------------------------

    def begin_drain(self) -> None:
        """The answer under way says that it is the last, if its headers are not gone yet. Then the client knows."""
        self._quiet_since = max(self._quiet_since, self.loop.time())
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def close_if_quiet(self) -> None:
        """Closes a connection on which nothing was asked for ``LINGER_S``, and nothing has just arrived."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering or self._has_begun or self.loop.time() - self._quiet_since < LINGER_S:
            return
        unread = select.poll()
        unread.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        if not unread.poll(0):
            self.transport.close()

    # -- refusals --------------------------------------------------------------------------------------------

    def send_400_response(self, msg: str) -> None:
        self._error = self._error or BadRequest("what was sent is not an HTTP/1.1 request")

    def _count_header(self, size: int) -> None:
        self._num_unparsed = 0
        self._num_header_bytes += size
        if self._error is None and self._num_header_bytes > self._rules.max_header_bytes:
            self._error = self._head_too_large()

    def _head_too_large(self) -> ShoalError:
        limit = self._rules.max_header_bytes
        return HeadTooLarge(
            f"the request's line and headers are over the limit of {limit} bytes (--max_header_bytes;"
            f" each header counts {HEADER_OVERHEAD} more than its own)"
        )

    def _expect_rest(self) -> None:
        self._has_begun = True
        self._arriving_since = self.loop.time()
        self._stop_timer()
        self._arrival_timer = self.loop.call_later(READ_TIMEOUT_S, self._on_overdue)

    def _stop_timer(self) -> None:
        if self._arrival_timer is not None:
            self._arrival_timer.cancel()
            self._arrival_timer = None

    def _on_overdue(self) -> None:
        now = self.loop.time()
        if not self._has_begun:  # nobody asked anything
            self.transport.close()
            return
        if self.flow.read_paused:  # it is us who do not read
            self._arriving_since = now
        due_at = self._arriving_since + READ_TIMEOUT_S + self._num_body_bytes / MIN_BODY_RATE
        if now < due_at:
            self._arrival_timer = self.loop.call_at(due_at, self._on_overdue)
            return
        self._refuse(
            RequestTimeout(
                f"the request did not arrive in time: its head may take {READ_TIMEOUT_S:.0f} seconds,"
                f" its body one more for every {MIN_BODY_RATE} bytes"
            )
        )

    def _refuse(self, error: ShoalError) -> None:
        """Answers in place of the application where no answer has begun; reads no more; closes when it was read."""
        self._error = error
        self._stop_timer()
        cycle = self.cycle
        is_answering = cycle is not None and not cycle.response_complete
        if is_answering and (cycle.response_started or self.pipeline or not cycle.more_body):
            cycle.keep_alive = False  # an earlier request gets its answer first, and is the last
            return
        if is_answering:
            cycle.disconnected = True  # the application waits for the rest of the body
            cycle.message_event.set()
        answer = error_response(error)
        answer.headers["connection"] = "close"
        headers = [*self.server_state.default_headers, *answer.raw_headers]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[answer.status_code] + head + b"\r\n" + bytes(answer.body))
        self._rules.on_refused(answer.status_code)
        self.flow.resume_reading()
        self.loop.call_later(LINGER_S, self.transport.close)
