"""kvstore's side of streams' logs on the bus: takes appends and says when they are written, and answers readers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from redis.exceptions import RedisError

from services.common.bus import Bus, Message, Subscription
from services.common.messages.codec import decode, encode
from services.common.messages.retention import StreamLogBatch, StreamLogRequest, StreamLogWritten
from services.common.subjects import Subjects
from services.kvstore.stream_log import StreamLogs

log = logging.getLogger(__name__)

MIN_WRITE_S = 0.2  # between two writes: what gateways send meanwhile is written together
CHECK_S = 1.0  # while nothing is appended, how often Redis is asked whether it still has what was


class LogServer:
    """Owned by one kvstore, which calls ``tick`` with every beat. Shares the work with others in a queue group."""

    def __init__(
        self,
        bus: Bus,
        subjects: Subjects,
        logs: StreamLogs,
        longest_s: float,
        on_redis_error: Callable[[RedisError], None],
    ) -> None:
        self._bus, self._subjects, self._logs, self._longest_s = bus, subjects, logs, longest_s
        self._on_redis_error = on_redis_error
        self._unanswered: list[str] = []  # reply subjects of batches that the next write answers
        self._write_now, self._is_urgent = asyncio.Event(), asyncio.Event()
        self._written_at = float("-inf")
        self._is_stopping = False
        self._subscriptions: list[Subscription] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.num_appends = 0

    async def start(self) -> None:
        subscribe, subjects, group = self._bus.subscribe, self._subjects, Subjects.queue("kvstore")
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._warm_up())]
        self._subscriptions = [
            await subscribe(subjects.stream_log_append(), self._on_append, queue=group),
            await subscribe(subjects.stream_log_read(), self._on_read, queue=group),
        ]

    async def drain(self) -> None:
        """Takes nothing more, and writes and answers what it took."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        await self._write()

    async def stop(self) -> None:
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.unsubscribe()

    def tick(self) -> None:
        """Tries a Redis again that is away, and looks after one that nothing is written to."""
        now, logs = self._now(), self._logs
        logs.forget_expired(now)
        if logs.has_waiting or (now - self._written_at >= CHECK_S and not logs.is_empty):
            self._write_now.set()

    async def _on_append(self, message: Message) -> None:
        batch, now = decode(StreamLogBatch, message.data), self._now()
        for entry in zip(batch.request_ids, batch.retention_s, batch.appends, strict=False):
            request_id, asked_s, data = entry
            retention_s = min(asked_s, self._longest_s)
            if retention_s > 0:
                self._logs.add(request_id, retention_s, data, now)
        self.num_appends += len(batch.appends)
        if self._logs.is_away:
            await self._answer([message.reply], "")
        else:
            self._unanswered.append(message.reply)
        self._write_now.set()
        if batch.is_urgent:
            self._is_urgent.set()

    async def _on_read(self, message: Message) -> None:
        request_id = decode(StreamLogRequest, message.data).request_id
        await self._bus.publish(message.reply, encode(await self._logs.read(request_id, self._now())))

    async def _run(self) -> None:
        """Ends by the flag too: a cancellation that comes while redis-py reads an answer can get lost in it."""
        while not self._is_stopping:
            await self._write_now.wait()
            self._write_now.clear()
            self._is_urgent.clear()
            try:
                await self._write()
            except Exception:
                log.exception("the logs of streams were not written")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_urgent.wait(), MIN_WRITE_S)

    async def _warm_up(self) -> None:
        try:
            await self._logs.warm(self._now())
        except RedisError as error:
            self._on_redis_error(error)

    async def _write(self) -> None:
        answering, self._unanswered = self._unanswered, []
        self._written_at = self._now()
        try:
            await self._logs.write(self._written_at)
            generation = self._logs.generation
        except RedisError as error:
            self._on_redis_error(error)
            generation = ""
        await self._answer(answering, generation)

    async def _answer(self, subjects: list[str], generation: str) -> None:
        data = encode(StreamLogWritten(generation))
        for subject in filter(None, subjects):
            await self._bus.publish(subject, data)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
