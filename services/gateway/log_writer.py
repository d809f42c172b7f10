"""What a gateway writes of its streams to their logs, and reads of others': its side of kvstore's logs.

A stream that is kept costs its reader next to nothing: its rows gather in its Journal, and one timer sends those of
all streams together, a few times a second. What a kvstore has not confirmed is sent again, and all of it when Redis
has lost what was written (services/common/messages/retention.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from services.common.bus import Bus, BusError
from services.common.errors import DecodeError
from services.common.messages.codec import decode, encode
from services.common.messages.retention import StreamLog, StreamLogBatch, StreamLogRequest, StreamLogWritten
from services.common.subjects import Subjects
from services.gateway.journal import Journal

FLUSH_S = 0.4  # what a gateway that is killed has not logged yet is generated again
BATCH_BYTES = 256 * 1024  # a batch that has grown so long is sent, and another begun
BEGIN_S = 0.25  # for so long a client waits for its headers, and in them the stream's address, to be true
MAX_ENDED_BYTES = 64 * 1024 * 1024  # of streams that have ended while nobody confirms; the oldest go first
RETRY_S, MAX_RETRY_S = 0.5, 8.0  # what is not confirmed is sent again; twice as long each time
RENEW_S = 5.0  # logs of streams without news are kept alive
_ANSWER_S = 2.0
_READ_TIMEOUT_S = 3.0


class LogWriter:
    """One per gateway."""

    def __init__(self, bus: Bus, subjects: Subjects) -> None:
        self._bus, self._subjects = bus, subjects
        self._open: dict[Journal, None] = {}  # of streams that run
        self._ended: dict[Journal, float] = {}  # with entries that nobody has confirmed, and when
        self._ended_bytes = 0
        self._changed: dict[Journal, None] = {}  # in order
        self._sending: set[asyncio.Task[None]] = set()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._renew_timer: asyncio.TimerHandle | None = None
        self._retry_timer: asyncio.TimerHandle | None = None
        self._retry_s = RETRY_S
        self._generation = ""
        self._is_confirmed = True  # what was sent last

    # -- journals' side --------------------------------------------------------------------------------------

    async def begin(self, journal: Journal) -> None:
        """Returns when the beginning is written, or after a short time, at once while nobody confirms anything:
        a stream waits for its log no longer than that, and the log's beginning is sent until it is there."""
        self._open[journal] = None
        if self._renew_timer is None:
            self._renew_later()
        sending = self._send([journal], is_urgent=True)
        if self._is_confirmed:
            await asyncio.wait(sending, timeout=BEGIN_S)

    def note(self, journal: Journal) -> None:
        """A journal has something new; it is taken within FLUSH_S."""
        self._changed[journal] = None
        if self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def end(self, journal: Journal) -> None:
        """Sends the rest at once."""
        self._open.pop(journal, None)
        self._changed.pop(journal, None)
        self._send([journal])
        self._ended[journal] = asyncio.get_running_loop().time()
        self._ended_bytes += journal.num_bytes
        while self._ended_bytes > MAX_ENDED_BYTES:
            self._give_up(next(iter(self._ended)))

    # -- sending ---------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Sends what all journals have."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        changed, self._changed = self._changed, {}
        self._send(changed)

    async def close(self) -> None:
        """Sends the rest, and returns when it is written or nobody says so."""
        self.flush()
        for timer in (self._renew_timer, self._retry_timer):
            if timer is not None:
                timer.cancel()
        if self._sending:
            await asyncio.wait(self._sending, timeout=_ANSWER_S)

    async def read(self, request_id: str) -> StreamLog:
        """Raises BusError when no kvstore answers."""
        asked = encode(StreamLogRequest(request_id))
        return decode(
            StreamLog, await self._bus.request(self._subjects.stream_log_read(), asked, _READ_TIMEOUT_S)
        )

    def _send(self, journals: Iterable[Journal], *, is_urgent: bool = False) -> list[asyncio.Task[None]]:
        tasks: list[asyncio.Task[None]] = []
        batch, size = StreamLogBatch(is_urgent=is_urgent), 0
        sent: list[tuple[Journal, int]] = []
        now = asyncio.get_running_loop().time()
        for journal in journals:
            for index, data in journal.take(now):
                if sent and size + len(data) > BATCH_BYTES:
                    tasks.append(self._spawn(batch, sent))
                    batch, sent, size = StreamLogBatch(is_urgent=is_urgent), [], 0
                batch.request_ids.append(journal.request_id)
                batch.retention_s.append(journal.retention_s)
                batch.appends.append(data)
                sent.append((journal, index))
                size += len(data)
        if sent:
            tasks.append(self._spawn(batch, sent))
        return tasks

    def _spawn(self, batch: StreamLogBatch, sent: list[tuple[Journal, int]]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._deliver(encode(batch), sent))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _deliver(self, data: bytes, sent: list[tuple[Journal, int]]) -> None:
        generation = ""
        with suppress(BusError, DecodeError):
            answer = await self._bus.request(self._subjects.stream_log_append(), data, _ANSWER_S)
            generation = decode(StreamLogWritten, answer).generation
        if generation:
            self._on_written(generation, sent)
        else:
            self._is_confirmed = False
            self._retry_later()

    # -- what is heard, and what is not ----------------------------------------------------------------------

    def _on_written(self, generation: str, sent: list[tuple[Journal, int]]) -> None:
        if self._generation not in ("", generation):
            for journal in (*self._open, *self._ended):
                journal.forget_written()
                self.note(journal)
        self._generation = generation
        for journal, index in sent:
            journal.on_written(index)
            if journal in self._ended and journal.is_written:
                self._give_up(journal)
        if not self._is_confirmed:
            self._is_confirmed, self._retry_s = True, RETRY_S
            self._retry()

    def _retry_later(self) -> None:
        if self._retry_timer is None and (self._open or self._ended):
            self._retry_timer = asyncio.get_running_loop().call_later(self._retry_s, self._retry)
            self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)

    def _retry(self) -> None:
        if self._retry_timer is not None:
            self._retry_timer.cancel()
            self._retry_timer = None
        now = asyncio.get_running_loop().time()
        for journal in [made for made, ended_at in self._ended.items() if ended_at + made.retention_s < now]:
            self._give_up(journal)
        for journal in (*self._open, *self._ended):
            if journal.send_again():
                self._changed[journal] = None
        self.flush()

    def _give_up(self, journal: Journal) -> None:
        del self._ended[journal]
        self._changed.pop(journal, None)
        self._ended_bytes -= journal.num_bytes

    def _renew_later(self) -> None:
        delay = min((RENEW_S, *(journal.retention_s / 3 for journal in self._open)))
        self._renew_timer = asyncio.get_running_loop().call_later(max(delay, FLUSH_S), self._renew)

    def _renew(self) -> None:
        """A stream that waits in line for longer than it is kept has its log nevertheless."""
        self._renew_timer = None
        now = asyncio.get_running_loop().time()
        for journal in self._open:
            if now - journal.sent_at >= journal.retention_s / 3:
                journal.renew()
                self.note(journal)
        if self._open:
            self._renew_later()
