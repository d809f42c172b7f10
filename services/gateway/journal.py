"""What a gateway writes of its streams to their logs, and reads of others': its side of kvstore's logs.

A stream that is kept costs its reader next to nothing: its rows gather in its Journal, and one timer sends those of
all streams together, a few times a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress

from services.common.bus import Bus, BusError
from services.common.messages.codec import decode, encode
from services.common.messages.frames import ERROR, RUNNING
from services.common.messages.retention import StreamLog, StreamLogAppend, StreamLogBatch, StreamLogRequest
from services.common.subjects import Subjects
from services.gateway.life.stream import Delta

FLUSH_S = 0.2  # what a gateway that is killed has not logged yet is generated again
BATCH_BYTES = 256 * 1024  # a batch that has grown so long is sent, and another begun
_READ_TIMEOUT_S = 3.0


class LogWriter:
    """One per gateway. Nothing is answered: a log needs not be complete (services/common/messages/retention.py)."""

    def __init__(self, bus: Bus, subjects: Subjects) -> None:
        self._bus, self._subjects = bus, subjects
        self._changed: dict[Journal, None] = {}  # in order
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()

    def send(self, journal: Journal) -> None:
        """Sends what a journal has, at once: its beginning, and its end."""
        self._changed.pop(journal, None)
        self._send([journal])

    def note(self, journal: Journal) -> None:
        """A journal has something new; it is taken within FLUSH_S."""
        self._changed[journal] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self.flush)

    def flush(self) -> None:
        """Sends what all journals have."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        changed, self._changed = self._changed, {}
        self._send(changed)

    async def close(self) -> None:
        """Sends the rest, and returns when it is on its way."""
        self.flush()
        await asyncio.gather(*self._sending)

    async def read(self, request_id: str) -> StreamLog:
        """Raises BusError when no kvstore answers."""
        asked = encode(StreamLogRequest(request_id))
        return decode(
            StreamLog, await self._bus.request(self._subjects.stream_log_read(), asked, _READ_TIMEOUT_S)
        )

    def _send(self, journals: Iterable[Journal]) -> None:
        batch, size = StreamLogBatch(), 0
        for journal in journals:
            data = encode(journal.take())
            if batch.appends and size + len(data) > BATCH_BYTES:
                self._spawn(batch)
                batch, size = StreamLogBatch(), 0
            batch.request_ids.append(journal.request_id)
            batch.retention_s.append(journal.retention_s)
            batch.appends.append(data)
            size += len(data)
        if batch.appends:
            self._spawn(batch)

    def _spawn(self, batch: StreamLogBatch) -> None:
        task = asyncio.create_task(self._publish(encode(batch)))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _publish(self, data: bytes) -> None:
        with suppress(BusError):  # then it is lost, and generated again if anybody asks
            await self._bus.publish(self._subjects.stream_log_append(), data)


class Journal:
    """Gathers one call's rows for its log."""

    def __init__(self, request_id: str, record: bytes, retention_s: float, writer: LogWriter) -> None:
        self.request_id, self.retention_s, self._writer = request_id, retention_s, writer
        self._append = self._new_append()
        self._append.request = record

    def begin(self, attempt: int) -> None:
        """Before the client learns where to come back to. ``attempt`` is the present one, here and below."""
        self._append.attempt = attempt
        self._writer.send(self)

    def add(self, deltas: Sequence[Delta], attempt: int) -> None:
        self._append.attempt = attempt
        for delta in deltas:
            self._add(self._append, delta)
        self._writer.note(self)

    def end(self) -> None:
        self._writer.send(self)

    def take(self) -> StreamLogAppend:
        """What came since the last time."""
        append, self._append = self._append, self._new_append()
        return append

    @staticmethod
    def _add(append: StreamLogAppend, delta: Delta) -> None:
        """As a row of its own, or as more of the last one, where that is of the same choice."""
        text, num_ids = delta.text, len(delta.ids)
        # Whoever takes a failed choice up gets its error anew, from another attempt.
        finish = delta.finish if delta.finish != ERROR else RUNNING
        if append.choices and append.choices[-1] == delta.choice:
            append.counts[-1] += num_ids
            append.texts[-1] += text
            append.finish[-1] = finish
        else:
            append.choices.append(delta.choice)
            append.first.append(delta.num_ids - num_ids)
            append.counts.append(num_ids)
            append.texts.append(text)
            append.text_offset.append(delta.num_chars - len(text))
            append.finish.append(finish)
        append.ids += delta.ids
        row = len(append.choices) - 1
        if delta.stop_reason is not None:
            append.stop_reasons[row] = delta.stop_reason
        if delta.cached_tokens and delta.num_ids == num_ids:
            append.cached_tokens[row] = delta.cached_tokens

    def _new_append(self) -> StreamLogAppend:
        return StreamLogAppend(self.request_id, 0)
