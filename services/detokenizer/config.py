"""The detokenizer's limits, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Times in seconds."""

    keep_ended_s: float = 10.0  # late rows of a finished stream are known as such for so long
    keep_silent_s: float = 600.0  # a stream without a row; one that speaks again is replayed
    ask_every_s: float = 0.2  # at most one Replay or Cancel per stream attempt in this time
    max_streams: int = 65_536  # beyond it the oldest is dropped; if it lives, it is replayed
    max_row_ids: int = 2_048  # ids of an outgoing row: longer replays become several rows
