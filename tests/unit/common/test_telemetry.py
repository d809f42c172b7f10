import json
import logging
import sys

import pytest

from services.common.logs import LogFormatter
from services.common.telemetry import FlightRecorder


def record(message="done", level=logging.INFO, **extra):
    made = logging.LogRecord("shoal", level, __file__, 1, message, (), None)
    made.created, made.msecs = 1_700_000_000.123, 123.0
    vars(made).update(extra)
    return made


def test_text_lines_carry_time_level_service_and_fields():
    line = LogFormatter("router", "r-1", as_json=False).format(
        record(request_id="q", why="two words", empty="")
    )
    assert line == '2023-11-14T22:13:20.123Z I router/r-1 done request_id=q why="two words" empty=""'


def test_json_lines_are_one_object_each():
    made = record("a\nb", request_id="q", odd={1, 2})
    line = LogFormatter("router", "r-1", as_json=True).format(made)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["event"], found["request_id"], found["service"]) == ("a\nb", "q", "router")


@pytest.mark.parametrize("as_json", [True, False])
def test_exceptions_are_part_of_the_line(as_json):
    made = record(level=logging.ERROR)
    try:
        raise ValueError("the reason")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert "ValueError: the reason" in LogFormatter("s", "i", as_json=as_json).format(made)


def recorder(**bounds):
    ticks = iter(range(10_000))
    return FlightRecorder(lambda: float(next(ticks)), **bounds)


def test_events_of_a_request_are_kept_in_order_with_their_fields():
    ring = recorder()
    ring.record("q", "queued")
    ring.record("other", "queued")
    ring.record("q", "dispatched", worker="w", matched=3)
    assert [(e.at_s, e.event, e.fields) for e in ring.of("q")] == [
        (0.0, "queued", {}),
        (2.0, "dispatched", {"worker": "w", "matched": "3"}),
    ]
    assert ring.of("unknown") == []


def test_a_call_of_several_prompts_is_found_by_its_prefix():
    ring = recorder()
    for name in ("q-p1", "q-p0", "x-p0"):
        ring.record(name, "queued")
    assert [e.at_s for e in ring.of("q")] == [0.0, 1.0]


def test_the_ring_is_bounded_in_requests_and_events():
    ring = recorder(max_requests=3, max_events=2)
    for i in range(10):
        for _ in range(5):
            ring.record(f"q{i}", "step")
    assert [len(ring.of(f"q{i}")) for i in range(10)] == [0] * 7 + [2] * 3
