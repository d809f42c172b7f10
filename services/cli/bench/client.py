"""A lean HTTP client for one streamed completion at a time per connection: httptools over asyncio.

General clients spend several times the server's own time on each event; this one has to carry 10,000 tokens/s a
process, so that it is not what is measured.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson

from services.cli.bench.measure import Record


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go. ``extra`` is added to each body; ``timeout_s`` ends a request that says nothing."""

    base_url: str  # up to /v1
    model: str
    api_key: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    timeout_s: float = 600.0

    def request(self, prompt_ids: list[int], output_len: int) -> bytes:
        parts = urlsplit(self.base_url)
        body = {
            "model": self.model,
            "prompt": prompt_ids,
            "max_tokens": output_len,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }
        data = orjson.dumps({name: value for name, value in body.items() if value is not None})
        key = f"Authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
        head = (
            f"POST {parts.path.rstrip('/')}/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n{key}"
            f"Content-Type: application/json\r\nAccept: text/event-stream\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data


class EventReader:
    """Splits a byte stream into the data of server-sent events."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


def note_event(record: Record, data: bytes, now: float) -> None:
    """Adds what one event says to the record: a chunk of tokens, the usage, or an error."""
    if data == b"[DONE]":
        return
    event = orjson.loads(data)
    if "error" in event:
        record.error = str(event["error"].get("message", "error event"))[:200]
        return
    usage = event.get("usage")
    told = 0
    if usage:
        before, record.num_output = record.num_output, usage.get("completion_tokens", record.num_output)
        record.num_prompt = usage.get("prompt_tokens", 0)
        record.num_cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        told = record.num_output - before
    for choice in event.get("choices", ()):
        ids = choice.get("token_ids")
        if ids is None and not told and not choice.get("text") and choice.get("finish_reason"):
            continue  # it only says why the stream ended
        count = len(ids) if ids is not None else told
        if ids is None or ids:
            record.chunks.append((now, count))


class _Exchange:
    """What httptools calls while one response is read."""

    def __init__(self, record: Record) -> None:
        self.record, self.events, self.status_body = record, EventReader(), b""
        self.is_complete = self.is_kept = False
        self.now = 0.0
        self.parser = httptools.HttpResponseParser(self)

    def on_body(self, body: bytes) -> None:
        if self.parser.get_status_code() != 200:
            self.status_body += body[:4096]
            return
        for data in self.events.feed(body):
            note_event(self.record, data, self.now)

    def on_message_complete(self) -> None:
        self.is_complete = True
        self.is_kept = self.parser.should_keep_alive()  # once the message is over, it always says no
        status = self.parser.get_status_code()
        if status != 200:
            self.record.error = f"status {status}: {_message(self.status_body)}"


def _message(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return body[:100].decode("utf-8", "replace")


class Connection:
    """One connection, kept open from request to request. ``run`` never raises: what failed is in the record."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, prompt_ids: list[int], output_len: int) -> Record:
        data = self._target.request(prompt_ids, output_len)
        record = Record(sent=time.monotonic(), prompt_len=len(prompt_ids))
        try:
            async with asyncio.timeout(self._target.timeout_s):
                await self._exchange(data, record)
        except (OSError, TimeoutError, EOFError, httptools.HttpParserError, ValueError) as error:
            record.error = record.error or f"{type(error).__name__}: {error}".rstrip(": ")
            self.close()
        record.ended = time.monotonic()
        return record

    async def _exchange(self, data: bytes, record: Record) -> None:
        if self._streams is None or self._streams[0].at_eof():
            self._streams = await self._open()
            record.sent = time.monotonic()
        reader, writer = self._streams
        writer.write(data)
        exchange = _Exchange(record)
        while not exchange.is_complete:
            received = await reader.read(262_144)
            exchange.now = time.monotonic()
            if not received:
                raise EOFError("the server closed the connection")
            exchange.parser.feed_data(received)
        if not exchange.is_kept:
            self.close()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self._target.base_url)
        context = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if context else 80)
        return await asyncio.open_connection(parts.hostname, port, ssl=context, limit=1 << 20)

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
        self._streams = None
