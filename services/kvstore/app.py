"""kvstore on the bus: hears heartbeats and KV events, answers snapshots, and keeps Redis up to date."""

from __future__ import annotations

import asyncio
import logging

from prometheus_client import Counter, Gauge
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.common.bootstrap import Context
from services.common.bus import Message, Subscription
from services.common.kv_feed import KvFeeds
from services.common.liveness import Liveness
from services.common.messages.codec import decode, encode
from services.common.messages.events import (
    STOPPED,
    Heartbeat,
    KvEvents,
    KvSnapshot,
    KvSnapshotRequest,
    WorkerLoad,
)
from services.common.subjects import Subjects
from services.common.telemetry import Metrics
from services.kvstore.blocks import BlockTable
from services.kvstore.log_server import LogServer
from services.kvstore.mirror import Mirror
from services.kvstore.stream_log import StreamLogs

log = logging.getLogger(__name__)

REDIS_TIMEOUT_S = 1.0
WARM_TIMEOUT_S = 1.0  # a Redis that is away must not delay the start
WORKER_LEASES = 3  # a worker silent for so many leases is gone, with its blocks
TTL_LEASES = 10  # of a worker's keys in Redis; a kvstore that restarts before they run out finds what it had
# How often they are renewed, and a Redis noticed that lost them without breaking the connection.
RENEW_LEASES = 2
MIN_WRITE_S = 0.2  # between two writes: what workers send meanwhile is written together


class KvstoreMetrics:
    def __init__(self, metrics: Metrics) -> None:
        registry = metrics.registry
        self.blocks = Gauge("shoal_kvstore_blocks", "Blocks of all workers", registry=registry)
        self.workers = Gauge("shoal_kvstore_workers", "Workers followed", registry=registry)
        self.redis_up = Gauge("shoal_kvstore_redis_up", "1 while Redis takes writes", registry=registry)
        self.redis_errors = Counter(
            "shoal_kvstore_redis_errors", "Failed writes and reads", registry=registry
        )
        self.rewrites = Gauge(
            "shoal_kvstore_rewrites", "Workers written in full since the start", registry=registry
        )
        self.log_appends = Gauge(
            "shoal_kvstore_log_appends", "Stream log appends since the start", registry=registry
        )
        self.log_bytes = Gauge("shoal_kvstore_log_bytes", "Stream logs in memory", registry=registry)
        self.log_lost = Gauge(
            "shoal_kvstore_log_lost", "Appends given up while Redis was away", registry=registry
        )


class KvstoreApp:
    """An ``App`` (services/common/lifecycle.py)."""

    def __init__(self, context: Context) -> None:
        settings, timing, subjects = context.settings, context.timing, context.subjects
        self._id, self._bus, self._subjects = context.identity.instance_id, context.bus, subjects
        self._renew_every_s = RENEW_LEASES * timing.lease_s
        self._redis = connect_redis(settings.redis_url)
        self._table = BlockTable()
        self._feeds = KvFeeds(self._bus, subjects, self._table)
        self._workers = Liveness(timing.heartbeat_s, WORKER_LEASES * timing.lease_s)
        self._mirror = Mirror(
            self._redis,
            subjects.namespace,
            self._id,
            TTL_LEASES * timing.lease_s,
            self._table,
            self._feeds.position,
        )
        self._logs = StreamLogs(self._redis, subjects.namespace, context.rng)
        self._metrics = KvstoreMetrics(context.metrics)
        longest_s = max(settings.stream_retention, settings.max_stream_retention)
        self._log_server = LogServer(self._bus, subjects, self._logs, longest_s, self._count_error)
        self._write_now = asyncio.Event()
        self._renew_at = float("-inf")  # when the leases in Redis are to be renewed
        self._is_stopping = False
        self._subscriptions: list[Subscription] = []
        self._serving: list[Subscription] = []  # shared with other kvstores
        self._writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        subscribe, subjects, group = self._bus.subscribe, self._subjects, Subjects.queue("kvstore")
        self._subscriptions = [
            await subscribe(subjects.heartbeats("worker"), self._on_worker),
            await subscribe(subjects.kv_events(), self._on_kv_events),
        ]
        await self._warm_up()
        self._serving = [await subscribe(subjects.kvstore_snapshot(), self._on_snapshot, queue=group)]
        await self._log_server.start()
        self._writer = asyncio.create_task(self._run_writes())

    def heartbeat(self) -> tuple[WorkerLoad | None, dict[str, float]]:
        return None, {"blocks": float(self._table.num_blocks), "workers": float(len(self._table.workers))}

    def not_ready(self) -> str:
        return ""  # without Redis it still answers from memory

    async def drain(self) -> None:
        """Writes what it has; other kvstores go on by themselves."""
        for subscription in self._serving:
            await subscription.unsubscribe()
        await self._log_server.drain()
        await self._write()

    async def stop(self) -> None:
        self._is_stopping = True
        await self._log_server.stop()
        if self._writer:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        for subscription in self._subscriptions + self._serving:
            await subscription.unsubscribe()
        await self._feeds.stop()
        await self._redis.aclose()

    # -- what arrives ----------------------------------------------------------------------------------------

    async def _on_worker(self, message: Message) -> None:
        beat = decode(Heartbeat, message.data)
        if beat.epoch < self._feeds.position(beat.instance_id)[0]:
            return  # delayed, from before its restart
        if beat.state == STOPPED:
            self._on_gone(beat.instance_id)
        else:
            self._workers.saw(beat.instance_id, self._now())
            self._feeds.on_worker(beat.instance_id, beat.epoch)

    async def _on_kv_events(self, message: Message) -> None:
        self._feeds.on_events(decode(KvEvents, message.data))
        self._write_now.set()

    async def _on_snapshot(self, message: Message) -> None:
        page = decode(KvSnapshotRequest, message.data).page
        positions = {worker_id: self._feeds.position(worker_id) for worker_id in self._table.workers}
        await self._bus.publish(message.reply, encode(self._table.page(page, positions)))

    def _on_gone(self, worker_id: str) -> None:
        self._workers.forget(worker_id)
        self._feeds.on_gone(worker_id)
        self._table.forget(worker_id)
        self._mirror.drop(worker_id)
        self._write_now.set()

    # -- time ------------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Gives up silent workers, and has written what snapshots changed, and leases when it is time."""
        now = self._now()
        if self._bus.is_connected:  # test enough of the bus: who is given up wrongly costs one snapshot
            self._workers.saw_own_beat(now)
        for worker_id in self._workers.silent(now):
            log.warning("worker %s fell silent", worker_id)
            self._on_gone(str(worker_id))
        if now >= self._renew_at or any(blocks.has_changes for blocks in self._table.workers.values()):
            self._write_now.set()
        self._metrics.blocks.set(self._table.num_blocks)
        self._metrics.workers.set(len(self._table.workers))
        self._metrics.rewrites.set(self._mirror.num_rewrites)
        self._log_server.tick()
        self._metrics.log_appends.set(self._log_server.num_appends)
        self._metrics.log_lost.set(self._logs.num_lost)
        self._metrics.log_bytes.set(self._logs.held_bytes)

    async def _run_writes(self) -> None:
        """Writes what changed, and renews the leases when they are due.

        Ends by the flag too: a cancellation that comes while redis-py reads an answer can get lost in it.
        """
        while not self._is_stopping:
            await self._write_now.wait()
            self._write_now.clear()
            await self._write()
            await asyncio.sleep(MIN_WRITE_S)

    async def _write(self) -> None:
        """A failed write makes the leases due, so the next tick tries again, with everything."""
        now = self._now()
        is_due = now >= self._renew_at
        try:
            await self._mirror.write(renews=is_due)
        except RedisError as error:
            self._count_error(error)
            self._mirror.distrust()
            self._renew_at = now
        else:
            self._metrics.redis_up.set(1)
            if is_due:
                self._renew_at = now + self._renew_every_s

    def _count_error(self, error: RedisError) -> None:
        self._metrics.redis_up.set(0)
        self._metrics.redis_errors.inc()
        log.debug("Redis: %s", error)

    async def _warm_up(self) -> None:
        """Takes over what Redis holds; each worker's own snapshot replaces it when it comes."""
        try:
            async with asyncio.timeout(WARM_TIMEOUT_S):
                found = await self._mirror.read()
        except (RedisError, TimeoutError) as error:
            log.warning("Redis cannot be read; going on without: %s", error or type(error).__name__)
            return
        for worker_id, ((epoch, seq), hashes) in found.items():
            self._workers.saw_first(worker_id, self._now())
            self._feeds.on_worker(worker_id, epoch)
            self._feeds.warm(KvSnapshot(worker_id, epoch, seq, 0, 1, b"".join(hashes)))

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def connect_redis(url: str) -> Redis:
    """A client that never waits long: its caller tries again on its own beat."""
    return Redis.from_url(
        url or "redis://127.0.0.1:6379/0",
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
