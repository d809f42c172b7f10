"""GET /v1/streams/{id}: a stream is taken up after its Last-Event-ID, at any gateway."""

from __future__ import annotations

import asyncio

from services.common.bus import BusError
from services.common.errors import DecodeError, NotFound, Unavailable, Unsupported
from services.common.messages.codec import decode
from services.common.messages.retention import StreamLog
from services.gateway.auth import Caller
from services.gateway.core import Gateway
from services.gateway.http.body import parse_json
from services.gateway.openai.origin import Origin
from services.gateway.retention import Resume, StreamRecord, parse_positions

_FIND_S, _ANSWER_S = 0.6, 5.0


async def find_stream(gateway: Gateway, caller: Caller, request_id: str, last_event_id: str) -> Origin:
    """The call behind a stream's name. Raises NotFound where there is none, or it is another tenant's."""
    if not gateway.limits.longest_retention_s:
        raise Unsupported("streams are not kept here (--stream_retention, --max_stream_retention)")
    log = await _read_log(gateway, request_id)
    try:
        record = decode(StreamRecord, log.request) if log.found else None
    except DecodeError as error:
        raise Unavailable(f"the log of this stream cannot be read here: {error.message}") from error
    if record is None or record.tenant != caller.tenant:
        raise NotFound(
            f"there is no stream {request_id!r}: it was not to be kept (stream_retention), or is no longer"
        )
    gateway.client.evict(request_id)  # its former connection, if that was here and is not known to be dead
    body = parse_json(record.body)
    num_choices = body.get("n") or 1
    positions = parse_positions(last_event_id, num_choices * len(record.prompts))
    resume = Resume(log, positions, record.prompts)
    return Origin(record.path, record.body, request_id, record.created, record.seed, resume)


async def _read_log(gateway: Gateway, request_id: str) -> StreamLog:
    """The log as it is, after giving a late append, and a kvstore or Redis that restarts, a little time."""
    loop = asyncio.get_running_loop()
    started, why = loop.time(), "Redis is away"
    while True:
        try:
            log = await gateway.logs.read(request_id)
            if log.found or (not log.is_partial and loop.time() - started >= _FIND_S):
                return log
        except (BusError, DecodeError) as error:
            why = error.message
        if loop.time() - started >= _ANSWER_S:
            raise Unavailable(f"the logs of streams cannot be read now: {why}", retry_after_s=1)
        await asyncio.sleep(0.2)
