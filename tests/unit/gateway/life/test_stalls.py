"""Stalls are seen once each, in the middle of a stream only."""

from __future__ import annotations

from services.gateway.life.stalls import STALL_S, StallEvent, StallWatch
from services.gateway.life.stream import Row, StreamState


def test_a_stall_is_told_once_and_so_is_its_end() -> None:
    watch, stream = StallWatch(), StreamState(3, 0)
    assert watch.look([stream], 0.0) == []
    assert watch.look([stream], 10.0) == [], "it waits for its first token"
    stream.accept(Row(1, 0, [7, 8], "ab", 0), 10.0)
    assert watch.look([stream], 10.5) == []
    assert watch.look([stream], 10.5 + STALL_S / 2) == []
    assert watch.look([stream], 11.5) == [StallEvent("stalled", 3, 2, 1.0)]
    assert watch.look([stream], 12.0) == []
    stream.accept(Row(1, 2, [9], "c", 2), 12.5)
    assert watch.look([stream], 12.5) == [StallEvent("goes on", 3, 2, 2.0)]
    assert watch.look([stream], 13.0) == []


def test_a_stream_that_goes_on_steadily_or_has_ended_does_not_stall() -> None:
    watch, stream = StallWatch(), StreamState(0, 0)
    for i in range(20):
        stream.accept(Row(1, i, [i], "x", i, finish=2 if i == 19 else 0), float(i))
        assert watch.look([stream], i * 0.9) == []
    assert watch.look([stream], 1000.0) == []
