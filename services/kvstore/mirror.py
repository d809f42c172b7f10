"""Keeps Redis equal to the table in memory, whatever happens to Redis.

Nothing waits for Redis: changes gather in memory and one task writes them. When a write fails, or Redis turns
out to have lost a worker's key (it was flushed, or restarted empty), that worker is written anew in full.
Several kvstores may do this at once: they write the same things.

Keys: ``{namespace}:kv:{worker_id}`` is the set of 16-byte hashes, and the hash ``{namespace}:kv:workers`` maps
worker ids to "epoch seq". A set outlives its worker's last heartbeat by ``ttl_s`` at most.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis

from services.kvstore.blocks import BlockTable, WorkerBlocks

log = logging.getLogger(__name__)

BATCH = 2_000  # hashes in one Redis command

Position = tuple[int, int]  # epoch and sequence number of a worker's events


@dataclass(slots=True)
class Mirror:
    """Writes the table of one process. ``position`` tells a worker's place in its events, (0, 0) for unknown."""

    redis: Redis
    namespace: str
    writer_id: str
    ttl_s: float
    table: BlockTable
    position: Callable[[str], Position]
    num_rewrites: int = 0
    _written: dict[str, Position] = field(default_factory=dict)
    _dead: set[str] = field(default_factory=set)

    def key(self, worker_id: str) -> str:
        return f"{self.namespace}:kv:{worker_id}"

    @property
    def workers_key(self) -> str:
        return f"{self.namespace}:kv:workers"

    def drop(self, worker_id: str) -> None:
        """A worker is dead: its keys go at the next write."""
        self._dead.add(worker_id)
        self._written.pop(worker_id, None)

    def distrust(self) -> None:
        """After a failed write nobody knows what Redis has: everything is written anew."""
        self._written.clear()
        for blocks in self.table.workers.values():
            blocks.rewrite()

    async def write(self, *, renews: bool) -> None:
        """Brings Redis up to date; ``renews`` the leases of workers without changes too, and finds what Redis lost.

        Raises RedisError; then call ``distrust``.
        """
        await self._delete_dead()
        tells = renews
        for worker_id, blocks in list(self.table.workers.items()):
            position = self.position(worker_id)
            if (renews or blocks.has_changes) and (
                blocks.needs_rewrite or not await self._update(worker_id, blocks)
            ):
                await self._rewrite(worker_id, blocks)
                self._written.pop(worker_id, None)  # what lost the set may have lost the position
            if position != (0, 0) and self._written.get(worker_id) != position:
                await self.redis.hset(self.workers_key, worker_id, "{} {}".format(*position))
                self._written[worker_id] = position
                tells = True
        if tells and await self.redis.pexpire(self.workers_key, round(self.ttl_s * 1000)) == 0:
            self._written.clear()

    async def read(self) -> dict[str, tuple[Position, list[bytes]]]:
        """What Redis holds: worker id -> (position, hashes). Raises RedisError."""
        found: dict[str, tuple[Position, list[bytes]]] = {}
        for name, value in (await self.redis.hgetall(self.workers_key)).items():
            worker_id, position = _text(name), _parse_position(_text(value))
            hashes = [member async for member in self.redis.sscan_iter(self.key(worker_id), count=BATCH)]
            if position and hashes:
                found[worker_id] = position, hashes
        return found

    async def _delete_dead(self) -> None:
        dead = sorted(self._dead)
        if dead:
            async with self.redis.pipeline(transaction=True) as pipe:
                pipe.unlink(*(self.key(worker_id) for worker_id in dead))
                pipe.hdel(self.workers_key, *dead)
                await pipe.execute()
            self._dead.difference_update(dead)

    async def _update(self, worker_id: str, blocks: WorkerBlocks) -> bool:
        """Writes changes and renews the lease. False when Redis has lost what it had."""
        key = self.key(worker_id)
        added, removed = blocks.take_changes()
        expected = len(blocks.held) - len(added) + len(removed) > 0
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.pexpire(key, round(self.ttl_s * 1000))
            for part in _batches(sorted(added)):
                pipe.sadd(key, *part)
            for part in _batches(sorted(removed)):
                pipe.srem(key, *part)
            if added:
                pipe.pexpire(key, round(self.ttl_s * 1000))
            results = await pipe.execute()
        return not expected or bool(results[0])

    async def _rewrite(self, worker_id: str, blocks: WorkerBlocks) -> None:
        """Replaces a worker's set in one step, beside which readers see the old or the new one."""
        key, draft = self.key(worker_id), f"{self.namespace}:kv-draft:{self.writer_id}:{worker_id}"
        blocks.needs_rewrite = False
        names = list(blocks.held)
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.delete(draft)
            for part in _batches(names):
                pipe.sadd(draft, *part)
            if names:
                pipe.rename(draft, key)
                pipe.pexpire(key, round(self.ttl_s * 1000))
            else:
                pipe.delete(key)
            await pipe.execute()
        self.num_rewrites += 1


def _batches(names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(names), BATCH):
        yield names[start : start + BATCH]


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")


def _parse_position(value: str) -> Position | None:
    epoch, _, seq = value.partition(" ")
    return (int(epoch), int(seq)) if epoch.isdecimal() and seq.isdecimal() else None
