"""What a detokenizer knows of each stream, and what it does with each row of a TokenFrame.

Pure: frames in, actions out; time is passed in. The rules are in docs/architecture.md ("Indices", "Attempts").
Frames may be lost, doubled and late, so every row is compared with the index that its stream expects next:
what is old is dropped, what is missing is asked for again, and a row with StreamInfo stands on its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from services.common.messages.control import Cancel, Holdings
from services.common.messages.frames import RUNNING, STOP, StreamInfo, TextFrame, TokenFrame
from services.detokenizer.config import StreamLimits
from services.detokenizer.decoding import Decoding
from services.detokenizer.rows import Row, add_row, new_text_frame, rows_of
from services.detokenizer.text import TextState


@dataclass(slots=True)
class Note:
    """Something that whoever looks into one request wants to know."""

    stream: str
    attempt: int
    event: str
    fields: dict[str, object]


@dataclass(slots=True)
class Actions:
    """What a frame leads to. Replays and cancels go to the frame's worker."""

    frames: dict[str, TextFrame] = field(default_factory=dict)  # by gateway
    replays: list[tuple[str, int]] = field(default_factory=list)  # (stream, attempt)
    cancels: list[tuple[str, int]] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    num_stale: int = 0  # rows of a lower attempt than known
    num_stopped: int = 0  # streams ended here, by a stop string


@dataclass(slots=True)
class Stream:
    gateway_id: str
    attempt: int
    text: TextState
    row_at: float  # when its last new row came
    ended: bool = False


class StreamTable:
    """All streams of one detokenizer."""

    def __init__(self, decoding: Decoding, detokenizer_id: str, limits: StreamLimits) -> None:
        self._decoding, self._id, self._limits = decoding, detokenizer_id, limits
        self._streams: dict[str, Stream] = {}  # finished ones too, for a while; oldest first
        self._told: dict[
            tuple[str, str, int], float
        ] = {}  # (what, stream, attempt) -> when a worker was told

    def num_live(self) -> int:
        return sum(not stream.ended for stream in self._streams.values())

    def num_active(self, now: float, within_s: float) -> int:
        """Unfinished streams that had a row in the last ``within_s`` seconds."""
        return sum(not s.ended and now - s.row_at < within_s for s in self._streams.values())

    def gateways(self) -> set[str]:
        return {stream.gateway_id for stream in self._streams.values()}

    def apply(self, frame: TokenFrame, now: float) -> Actions:
        """Takes a frame. Raises DecodeError, having done nothing, when its columns do not fit together."""
        actions = Actions()
        for row in rows_of(frame):
            self._apply_row(row, frame.worker_id, actions, now)
        return actions

    def cancel(self, cancel: Cancel, now: float) -> None:
        """Ends streams that nobody reads any more. They are kept a while as ended: late rows start nothing anew."""
        for name, attempt in zip(cancel.streams, cancel.stream_attempts, strict=False):
            stream = self._streams.get(name)
            if stream is not None and stream.attempt <= attempt and not stream.ended:
                stream.ended, stream.row_at = True, now

    def silent(self, now: float, for_s: float) -> dict[str, Holdings]:
        """By gateway: unfinished streams without a row for ``for_s`` seconds.

        A row may come after its stream's Cancel, and begin what nobody will end.
        """
        by_gateway: dict[str, Holdings] = {}
        for name, stream in self._streams.items():
            if stream.ended or now - stream.row_at < for_s:
                continue
            held = by_gateway.setdefault(stream.gateway_id, Holdings("detokenizer", self._id))
            held.streams.append(name)
            held.stream_attempts.append(stream.attempt)
            held.next_index.append(stream.text.num_ids)
            held.finished.append(0)
        return by_gateway

    def forget(self, now: float, dead_gateways: Iterable[str] = ()) -> None:
        """Drops finished streams after a while, silent ones, and those whose gateway is gone."""
        dead = set(dead_gateways)
        for name, stream in list(self._streams.items()):
            keep_s = self._limits.keep_ended_s if stream.ended else self._limits.keep_silent_s
            if stream.gateway_id in dead or now - stream.row_at > keep_s:
                del self._streams[name]
        for key, at in list(self._told.items()):
            if now - at > self._limits.ask_every_s:
                del self._told[key]

    def _apply_row(self, row: Row, worker_id: str, actions: Actions, now: float) -> None:
        stream = self._streams.get(row.stream)
        if stream is not None and row.attempt < stream.attempt:
            actions.num_stale += 1
            if self._tell("cancel", actions.cancels, row, now):
                actions.notes.append(Note(row.stream, row.attempt, "stale attempt", {"worker": worker_id}))
        elif row.info is not None and len(row.info.prior_ids) == row.first:
            self._apply_standalone(stream, row, row.info, worker_id, actions, now)
        elif stream is not None and row.attempt == stream.attempt and stream.ended:
            self._stop_worker(stream, row, actions, now)
        elif stream is None or row.attempt > stream.attempt or row.first > stream.text.num_ids:
            if self._tell("replay", actions.replays, row, now):
                has = stream.text.num_ids if stream and stream.attempt == row.attempt else 0
                fields: dict[str, object] = {"worker": worker_id, "first": row.first, "has": has}
                actions.notes.append(Note(row.stream, row.attempt, "replay asked", fields))
        else:
            self._advance(stream, row, worker_id, actions, now)

    def _apply_standalone(
        self, known: Stream | None, row: Row, info: StreamInfo, worker_id: str, actions: Actions, now: float
    ) -> None:
        """A first row or a replay: it says all about its stream, from the first id to the row's last.

        Its text is given out even where it was before, because a gateway that missed it may have asked for it.
        A known state that is ahead of the row (a late first row) stays.
        """
        fresh = Stream(info.gateway_id, row.attempt, TextState(self._decoding, info), now)
        fresh.text.take(info.prior_ids)
        if known is None or row.attempt > known.attempt:
            fields: dict[str, object] = {"worker": worker_id, "gateway": info.gateway_id, "first": row.first}
            actions.notes.append(Note(row.stream, row.attempt, "stream started", fields))
        if fresh.text.stop is not None:  # what earlier attempts emitted ends the stream already
            self._emit(fresh, row, [], RUNNING, worker_id, actions, now)
        else:
            self._advance(fresh, row, worker_id, actions, now)
        if (
            known is None
            or row.attempt > known.attempt
            or fresh.ended
            or (not known.ended and fresh.text.num_ids >= known.text.num_ids)
        ):
            self._streams[row.stream] = fresh
            if len(self._streams) > self._limits.max_streams:
                del self._streams[next(iter(self._streams))]

    def _advance(self, stream: Stream, row: Row, worker_id: str, actions: Actions, now: float) -> None:
        """Takes what is new of a row that leaves no gap; long rows leave in parts."""
        known = stream.text.num_ids - row.first
        if known > len(row.ids) or (known == len(row.ids) and row.finish == RUNNING and row.info is None):
            return
        stream.row_at = now
        ids = row.ids[known:] if known else row.ids
        size = self._limits.max_row_ids
        if len(ids) <= size:
            self._emit(stream, row, ids, row.finish, worker_id, actions, now)
            return
        for start in range(0, len(ids), size):
            finish = row.finish if start + size >= len(ids) else RUNNING
            self._emit(stream, row, ids[start : start + size], finish, worker_id, actions, now)
            if stream.ended:
                return

    def _emit(
        self,
        stream: Stream,
        row: Row,
        ids: list[int],
        finish: int,
        worker_id: str,
        actions: Actions,
        now: float,
    ) -> None:
        """Decodes ids and adds a row to the frame for the stream's gateway."""
        text = stream.text
        first, offset = text.num_ids, text.num_chars
        reason: int | str | None = None
        # The id that ended the stream is no part of the text, unless the client wants what stops it.
        num_hidden = int(finish == STOP and row.stop_id is not None and bool(ids) and not text.includes_stop)
        piece = text.take(ids[:-1] if num_hidden else ids)
        if text.stop is not None:
            ids, finish, reason = ids[: text.num_ids - first], STOP, text.stop
            stream.ended = True
            actions.num_stopped += 1
            self._stop_worker(stream, row, actions, now)
        elif finish != RUNNING:
            text.skip(num_hidden)
            piece += text.flush()
            stream.ended, reason = True, row.stop_id
        if stream.ended:
            # A stop string is the client's own words: neither a log nor a trace has it.
            stop = "a stop string" if isinstance(reason, str) else reason
            fields: dict[str, object] = {"ids": text.num_ids, "finish": finish, "stop": stop}
            actions.notes.append(Note(row.stream, row.attempt, "stream ended", fields))
        frame = actions.frames.get(stream.gateway_id)
        if frame is None:
            frame = actions.frames[stream.gateway_id] = new_text_frame(worker_id, self._id)
        add_row(frame, row, first, ids, piece, offset, finish, reason)

    def _stop_worker(self, stream: Stream, row: Row, actions: Actions, now: float) -> None:
        """The worker goes on with a stream that a stop string ended: it does not know, or the Cancel was lost."""
        if stream.text.stop is not None and row.finish == RUNNING:
            self._tell("cancel", actions.cancels, row, now)

    def _tell(self, what: str, to: list[tuple[str, int]], row: Row, now: float) -> bool:
        """Adds the row's stream to what the worker is told, unless it was told a moment ago."""
        key = (what, row.stream, row.attempt)
        at = self._told.get(key)
        if at is not None and now - at < self._limits.ask_every_s:
            return False
        self._told[key] = now
        to.append((row.stream, row.attempt))
        return True
