"""One call's log as its gateway has it, until its stream has ended and all of it is written. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from services.common.messages.codec import encode
from services.common.messages.frames import ERROR, RUNNING
from services.common.messages.retention import MAX_LOG_BYTES, StreamLogAppend
from services.gateway.life.stream import Delta


class Writer(Protocol):
    """Who takes a journal's entries to a kvstore (log_writer.py)."""

    async def begin(self, journal: Journal) -> None: ...

    def note(self, journal: Journal) -> None: ...

    def end(self, journal: Journal) -> None: ...


class Journal:
    """Entries, of which some gather, some are on their way and some are written.

    It holds no more than the call's prompt and output do beside it, and MAX_LOG_BYTES at most: what comes after
    that is not logged, and generated again if anybody asks.
    """

    def __init__(self, request_id: str, record: bytes, retention_s: float, writer: Writer) -> None:
        self.request_id, self.retention_s, self._writer = request_id, retention_s, writer
        self.num_bytes = 0  # of all entries
        self.sent_at = float("-inf")  # by the loop's clock
        self._append: StreamLogAppend | None = StreamLogAppend(
            request_id, 0, record
        )  # gathers the next entry
        self._entries: list[bytes] = []
        self._unsent: list[int] = []
        self._unwritten: set[int] = set()
        self._is_full = self._is_renewing = False

    async def begin(self, attempt: int) -> None:
        """Before the client learns where to come back to. ``attempt`` is the present one, here and below."""
        if self._append is not None:
            self._append.attempt = attempt
        await self._writer.begin(self)

    def add(self, deltas: Sequence[Delta], attempt: int) -> None:
        if self._is_full:
            return
        append = self._append = self._append or StreamLogAppend(self.request_id, attempt)
        append.attempt = attempt
        for delta in deltas:
            self._add(append, delta)
        self._writer.note(self)

    def end(self) -> None:
        self._writer.end(self)

    # -- the writer's side -----------------------------------------------------------------------------------

    def take(self, now: float) -> list[tuple[int, bytes]]:
        """Entries to be sent, each with its index; an empty one only renews."""
        if self._append is not None:
            self._close_entry(encode(self._append))
            self._append = None
        found = [(index, self._entries[index]) for index in self._unsent]
        if self._is_renewing and not found:
            found.append((-1, b""))
        self._unsent, self._is_renewing = [], False
        if found:
            self.sent_at = now
        return found

    def _close_entry(self, data: bytes) -> None:
        if self.num_bytes + len(data) > MAX_LOG_BYTES:
            self._is_full = True
            return
        self.num_bytes += len(data)
        self._unsent.append(len(self._entries))
        self._unwritten.add(len(self._entries))
        self._entries.append(data)

    def on_written(self, index: int) -> None:
        self._unwritten.discard(index)

    @property
    def is_written(self) -> bool:
        return not self._unwritten

    def renew(self) -> None:
        self._is_renewing = True

    def forget_written(self) -> None:
        """Redis has lost it all."""
        self._unwritten = set(range(len(self._entries)))
        self._unsent = list(range(len(self._entries)))

    def send_again(self) -> bool:
        """Whether there is anything to send that nobody has confirmed."""
        self._unsent = sorted(self._unwritten)
        return bool(self._unsent)

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
