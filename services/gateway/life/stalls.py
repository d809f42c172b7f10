"""Which of a request's streams stand still in the middle, for whoever asks why with ``./shoal trace``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from services.gateway.life.stream import StreamState

STALL_S = 1.0


@dataclass(slots=True)
class _Seen:
    next_index: int
    at: float
    is_stalled: bool = False


@dataclass(frozen=True, slots=True)
class StallEvent:
    """``event``: "stalled", or "goes on" after ``waited_s`` seconds in all. ``at`` is the index of the next token."""

    event: str
    choice: int
    at: int
    waited_s: float


@dataclass(slots=True)
class StallWatch:
    """Looks at one request's streams some times a second. ``now`` is in seconds of any clock.

    What waits for its first token is no stall: the line and the prefill have events of their own.
    """

    _seen: dict[int, _Seen] = field(default_factory=dict)

    def look(self, streams: Iterable[StreamState], now: float) -> list[StallEvent]:
        """What changed since the last look."""
        events: list[StallEvent] = []
        for stream in streams:
            choice, index = stream.choice, stream.next_index
            seen = self._seen.get(choice)
            if seen is None:
                self._seen[choice] = _Seen(index, now)
            elif seen.next_index != index or stream.is_finished:
                if seen.is_stalled:
                    events.append(StallEvent("goes on", choice, seen.next_index, now - seen.at))
                seen.next_index, seen.at, seen.is_stalled = index, now, False
            elif index and not seen.is_stalled and now - seen.at >= STALL_S:
                seen.is_stalled = True
                events.append(StallEvent("stalled", choice, index, now - seen.at))
        return events
