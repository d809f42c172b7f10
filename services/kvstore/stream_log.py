"""Logs of streams: in Redis, for every kvstore and as long as they are kept, and in the memory of who wrote them.

``{namespace}:stream:{request_id}`` is a hash from the digests of entries to the entries, StreamLogAppend messages
as they came, and from ``size`` to their bytes. So to write one again changes nothing. It is gone some seconds after
the last append, as that says.

``{namespace}:streams`` names the generation of what Redis holds: the run of the server, and a random part. A Redis
that was killed, flushed, or restored from an older state, has another one, and whoever wrote into a former one
writes all that it still has again. With each kvstore keeping what it wrote or found at its start, a log outlives
the loss of Redis, of the kvstore, and of its gateway together with one of them. Memory is bounded; what was not
appended to for longest leaves it first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.common.messages.retention import MAX_LOG_BYTES, StreamLog
from services.kvstore.merge import merge_log, parse_log

MAX_HELD_BYTES = 64 * 1024 * 1024  # in memory
MAX_BATCH = 256  # entries in one round trip
MAX_BATCH_BYTES = 1024 * 1024
SETTLE_S = 2.0  # within which all kvstores notice that Redis has lost something, and have written it again
# One command for all: to pack several for each entry and read their answers takes kvstore five times as long.
# It answers with the generation, and writes only if that is the one that its caller knows.
WRITE_SCRIPT = """
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local generation = redis.call('GET', KEYS[1])
if not generation or string.sub(generation, 1, #run) ~= run then
    generation = run .. ARGV[2]
    redis.call('SET', KEYS[1], generation)
end
if generation ~= ARGV[1] then return generation end
for i = 2, #KEYS do
    local id, data, kept_ms = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
    if #data > 0 and redis.call('HSETNX', KEYS[i], id, data) == 1
            and redis.call('HINCRBY', KEYS[i], 'size', #data) > tonumber(ARGV[3]) then
        redis.call('HDEL', KEYS[i], id)
        redis.call('HINCRBY', KEYS[i], 'size', -#data)
    end
    redis.call('PEXPIRE', KEYS[i], kept_ms)
end
return generation
"""


@dataclass(slots=True)
class Held:
    """One log in memory. ``entries`` by their digests."""

    expires_at: float
    entries: dict[bytes, bytes] = field(default_factory=dict)
    size: int = 0


@dataclass(slots=True)
class StreamLogs:
    """Owned by one kvstore. ``add`` never waits; ``write``, ``warm`` and ``read`` speak with Redis."""

    redis: Redis
    namespace: str
    rng: random.Random
    max_bytes: int = MAX_HELD_BYTES
    generation: str = ""  # of Redis, as last heard; empty before that
    is_away: bool = False  # whether the last write failed
    num_lost: int = 0
    held_bytes: int = 0
    _settled_at: float = float("-inf")
    _held: dict[str, Held] = field(default_factory=dict)  # by request; what was last appended to is last
    _waiting: dict[tuple[str, bytes], None] = field(default_factory=dict)  # to be written: request, digest
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def is_empty(self) -> bool:
        return not self._held

    # -- memory ----------------------------------------------------------------------------------------------

    def add(self, request_id: str, retention_s: float, data: bytes, now: float) -> None:
        """Takes an entry, or notes by an empty one that its stream goes on."""
        held = self._held.pop(request_id, None) or Held(0.0)
        self._held[request_id] = held  # as the last
        held.expires_at = now + retention_s
        digest = blake2b(data, digest_size=8).digest() if data else b""
        if digest not in held.entries and held.size + len(data) <= MAX_LOG_BYTES:
            self._waiting[request_id, digest] = None
            if data:
                self._keep(held, digest, data)

    def _keep(self, held: Held, digest: bytes, data: bytes) -> None:
        held.entries[digest] = data
        held.size += len(data)
        self.held_bytes += len(data)
        while self.held_bytes > self.max_bytes:
            self.num_lost += self._forget(next(iter(self._held)))

    def _forget(self, request_id: str) -> int:
        """How many of its entries waited."""
        held = self._held.pop(request_id)
        self.held_bytes -= held.size
        waited = [name for digest in (b"", *held.entries) if (name := (request_id, digest)) in self._waiting]
        for name in waited:
            del self._waiting[name]
        return len(waited)

    def forget_expired(self, now: float) -> None:
        """Redis forgets by itself. While it is away, what waits for it has its time there still to come."""
        if not self.is_away:
            for request_id in [name for name, held in self._held.items() if held.expires_at <= now]:
                self._forget(request_id)

    # -- Redis -----------------------------------------------------------------------------------------------

    async def write(self, now: float) -> None:
        """Writes what waits, and everything where Redis has lost what was written. Raises RedisError."""
        async with self._writing:
            try:
                await self._write(now)
            except RedisError:
                self.is_away = True
                raise
            self.is_away = False

    async def _write(self, now: float) -> None:
        is_current = False
        while not is_current or self._waiting:
            batch = self._next_batch()
            generation = await self._call(batch, now)
            is_current = generation == self.generation
            if is_current:
                for name in batch:
                    self._waiting.pop(name, None)
                continue
            if self.generation:
                self._settled_at = now + SETTLE_S
            self.generation = generation
            self._waiting = dict.fromkeys(self._all_entries())

    def _next_batch(self) -> list[tuple[str, bytes]]:
        batch, size = [], 0
        for request_id, digest in islice(self._waiting, MAX_BATCH):
            batch.append((request_id, digest))
            size += len(self._held[request_id].entries.get(digest, b""))
            if size > MAX_BATCH_BYTES:
                break
        return batch

    async def _call(self, batch: Sequence[tuple[str, bytes]], now: float) -> str:
        """Writes, if this is the generation that we know. Returns the one that is."""
        keys = [f"{self.namespace}:streams"]
        new = f":{self.rng.getrandbits(64):016x}"
        words: list[bytes | str | int] = [self.generation, new, MAX_LOG_BYTES]
        for request_id, digest in batch:
            held = self._held[request_id]
            keys.append(self._key(request_id))
            words += (digest, held.entries.get(digest, b""), max(1, round((held.expires_at - now) * 1000)))
        found: bytes = await self.redis.eval(WRITE_SCRIPT, len(keys), *keys, *words)
        return found.decode()

    def _all_entries(self) -> Iterator[tuple[str, bytes]]:
        for request_id, held in self._held.items():
            for digest in held.entries:
                yield request_id, digest

    async def warm(self, now: float) -> None:
        """Takes over what Redis holds, so that it outlives that. Raises RedisError."""
        await self.write(now)
        async for key in self.redis.scan_iter(f"{self._key('')}*", count=256):
            left_ms = await self.redis.pttl(key)
            found = await self._read_entries(key)
            if self.held_bytes + sum(map(len, found.values())) > self.max_bytes:
                return
            request_id = key.decode()[len(self._key("")) :]
            held = self._held.setdefault(request_id, Held(now + left_ms / 1000))
            for digest, data in found.items():
                if digest not in held.entries:
                    self._keep(held, digest, data)

    async def read(self, request_id: str, now: float) -> StreamLog:
        """What Redis and this kvstore have together; while Redis is away, what is here, if that is of use."""
        held = self._held.get(request_id)
        entries = dict(held.entries) if held else {}
        if self.is_away:
            log = merge_log(request_id, parse_log(entries.values()))
            if log.found:
                log.is_partial = True
                return log
        try:
            await self.write(now)
            found = await self._read_entries(self._key(request_id))
        except RedisError:
            found, is_partial = {}, True
        else:
            is_partial = now < self._settled_at
        log = merge_log(request_id, parse_log((entries | found).values()))
        log.is_partial = is_partial
        return log

    async def _read_entries(self, key: str | bytes) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = await self.redis.hgetall(key)  # type: ignore[assignment]
        found.pop(b"size", None)
        return found

    def _key(self, request_id: str) -> str:
        return f"{self.namespace}:stream:{request_id}"
