"""JSON bodies, errors and server-sent events, written straight to the ASGI connection.

Starlette's StreamingResponse starts a task group per response and goes through an iterator per chunk; at
thousands of events a second that is most of the work.
"""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive

from services.common.errors import ShoalError, openai_body

SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx must not collect events
]
DONE = b"data: [DONE]\n\n"
# No empty line after it: some clients take that for the end of an event, even of one without data.
KEEP_ALIVE = b": keep-alive\n"


def encode_headers(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]


class JsonResponse(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def error_response(error: ShoalError) -> JsonResponse:
    headers = {}
    if error.retry_after_s is not None or error.status in (429, 503):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s or 1)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 413:
        headers["Connection"] = "close"  # the rest of the body is not read
    return JsonResponse(openai_body(error), error.status, headers)


def error_event(error: ShoalError) -> bytes:
    return b"data: " + orjson.dumps(openai_body(error)) + b"\n\n"


async def wait_for_disconnect(receive: Receive) -> None:
    """Returns when the client has left, or its request was answered."""
    while (await receive())["type"] != "http.disconnect":
        pass
