"""Logs of streams in Redis: appended to by gateways, read by the one to which a client comes back.

``{namespace}:log:{request_id}`` is a string: StreamLogAppend messages as they came, each after its length in 4
bytes. It is gone some seconds after the last append, as that says. Appends wait in memory, bounded, while Redis is away.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from redis.asyncio import Redis

from services.common.errors import DecodeError
from services.common.messages.codec import decode
from services.common.messages.frames import RUNNING
from services.common.messages.retention import StreamLog, StreamLogAppend, StreamLogChoice

MAX_LOG_BYTES = (
    4 * 1024 * 1024
)  # of one request; a longer log is of no use, because its answer must fit the bus
MAX_WAITING_BYTES = 64 * 1024 * 1024  # appends kept while Redis is away; beyond it the oldest are lost
MAX_BATCH = 256  # appends in one round trip
# One command for all: to pack two for each append and read their answers takes kvstore five times as long.
_APPEND = """
local lengths = {}
for i, key in ipairs(KEYS) do
    lengths[i] = redis.call('APPEND', key, ARGV[2 * i - 1])
    redis.call('PEXPIRE', key, ARGV[2 * i])
end
return lengths
"""


@dataclass(slots=True)
class StreamLogs:
    """Owned by one kvstore. ``add`` never waits; ``flush`` writes, ``read`` answers; both raise RedisError."""

    redis: Redis
    namespace: str
    num_lost: int = 0
    _waiting: deque[tuple[str, float, bytes]] = field(default_factory=deque)
    _waiting_bytes: int = 0
    _flushing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def add(self, request_id: str, retention_s: float, data: bytes) -> None:
        self._waiting.append((request_id, retention_s, data))
        self._waiting_bytes += len(data)
        while self._waiting_bytes > MAX_WAITING_BYTES:
            self._drop_oldest()
            self.num_lost += 1

    def _drop_oldest(self) -> None:
        _, _, data = self._waiting.popleft()
        self._waiting_bytes -= len(data)

    async def flush(self) -> None:
        """Writes what waits, in order. What could not be written waits on."""
        async with self._flushing:
            await self._flush()

    async def _flush(self) -> None:
        while self._waiting:
            batch = [self._waiting[i] for i in range(min(MAX_BATCH, len(self._waiting)))]
            keys = [self._key(request_id) for request_id, _, _ in batch]
            entries: list[bytes | int] = []
            for _, retention_s, data in batch:
                entries += (len(data).to_bytes(4, "little") + data, max(1, round(retention_s * 1000)))
            lengths = await self.redis.eval(_APPEND, len(keys), *keys, *entries)
            pairs = zip(batch, lengths, strict=True)
            too_long = {request_id for (request_id, _, _), length in pairs if length > MAX_LOG_BYTES}
            if too_long:
                await self.redis.unlink(*map(self._key, too_long))
            for item in batch:
                if self._waiting and self._waiting[0] is item:
                    self._drop_oldest()

    async def read(self, request_id: str) -> StreamLog:
        await self.flush()
        data = await self.redis.get(self._key(request_id))
        return merge_log(request_id, split_log(data if isinstance(data, bytes) else b""))

    def _key(self, request_id: str) -> str:
        return f"{self.namespace}:log:{request_id}"


def split_log(data: bytes) -> list[StreamLogAppend]:
    """The messages of a log. What cannot be read, and a torn end, are left out: a log needs no completeness."""
    found, start = [], 0
    while start + 4 <= len(data):
        end = start + 4 + int.from_bytes(data[start : start + 4], "little")
        with suppress(DecodeError):
            found.append(decode(StreamLogAppend, data[start + 4 : end]))
        start = end
    return found


def merge_log(request_id: str, appends: Sequence[StreamLogAppend]) -> StreamLog:
    """The unbroken prefix of every choice, from rows in any order, doubled or overlapping.

    Rows of several attempts agree, because a resume is exact. Pure.
    """
    request = next((append.request for append in appends if append.request), b"")
    rows = sorted(
        (row for append in appends for row in _rows(append)), key=lambda row: (row.choice, row.first)
    )
    choices: dict[int, StreamLogChoice] = {}
    for row in rows:
        choice = choices.setdefault(row.choice, StreamLogChoice(row.choice, []))
        if row.first > len(choice.ids) or row.text_offset > len(choice.text) or choice.finish != RUNNING:
            continue  # beyond a gap, or after the end
        if row.first + len(row.ids) < len(choice.ids) or row.text_offset + len(row.text) < len(choice.text):
            continue  # wholly known
        choice.ids += row.ids[len(choice.ids) - row.first :]
        choice.text += row.text[len(choice.text) - row.text_offset :]
        choice.finish, choice.stop_reason = row.finish, row.stop_reason
        choice.cached_tokens = choice.cached_tokens or row.cached_tokens
    attempt = max((append.attempt for append in appends), default=0)
    ordered = [choices[index] for index in sorted(choices)]
    return StreamLog(request_id, bool(request), attempt, request, ordered)


class _Row(NamedTuple):
    choice: int
    first: int
    ids: list[int]
    text_offset: int
    text: str
    finish: int
    stop_reason: int | str | None
    cached_tokens: int


def _rows(append: StreamLogAppend) -> list[_Row]:
    columns = (append.choices, append.first, append.counts, append.text_offset, append.texts, append.finish)
    if len({len(column) for column in columns}) != 1 or sum(append.counts) != len(append.ids):
        return []
    rows: list[_Row] = []
    start = 0
    for i, (index, first, count, offset, text, finish) in enumerate(zip(*columns, strict=True)):
        ids = append.ids[start : start + count]
        reason, cached = append.stop_reasons.get(i), append.cached_tokens.get(i, 0)
        rows.append(_Row(index, first, ids, offset, text, finish, reason, cached))
        start += count
    return rows
