"""What `chat`, `trace` and `status` make of what they are told."""

from __future__ import annotations

import json

import pytest

from services.cli.chat import Answer, ChatError, Conversation, events
from services.cli.status import rows
from services.cli.trace import timeline
from services.common.messages.events import Heartbeat, TraceEvent, TraceReply, WorkerLoad


def test_a_failed_turn_leaves_no_trace_in_the_conversation():
    conversation = Conversation("be brief")
    conversation.messages("lost")
    conversation.add("hi", "hello")
    assert [m["content"] for m in conversation.messages("next")] == ["be brief", "hi", "hello", "next"]


def test_chat_reads_events_up_to_done_and_raises_the_server_s_error():
    lines = ["data: " + json.dumps({"n": 1}), "", ": ping", "data: [DONE]", "data: {}"]
    assert list(events(iter(lines))) == [{"n": 1}]
    with pytest.raises(ChatError, match="out of blocks"):
        list(events(iter(['data: {"error": {"message": "out of blocks"}}'])))


def test_speed_counts_the_tokens_after_the_first():
    assert "then 50 tokens/s" in Answer("x", num_tokens=51, first_s=0.1, rest_s=1.0).speed()
    assert Answer("x").speed() == ""


def test_a_timeline_is_in_order_and_without_doubles():
    router = TraceReply("router", "router-1", [TraceEvent(11.0, "queued", {"line": "3"})])
    gateway = TraceReply("gateway", "gateway-1", [TraceEvent(10.0, "received"), TraceEvent(12.5, "finished")])
    entries = timeline([router, gateway, router])
    assert [(e.who, e.event, e.after_s, e.gap_s) for e in entries] == [
        ("gateway-1", "received", 0.0, 0.0),
        ("router-1", "queued", 1.0, 1.0),
        ("gateway-1", "finished", 2.5, 1.5),
    ]
    assert timeline([]) == []


def test_status_shows_load_and_what_is_missing():
    beat = Heartbeat("worker", "worker-1", 1, "ready", 0.3, worker=WorkerLoad(running=2, free_blocks=9))
    found = rows({"worker": ["worker-1", "worker-2"]}, {"worker-1": beat})
    assert [(row.id, row.state) for row in found] == [("worker-1", "ready"), ("worker-2", "missing")]
    assert found[0].load["running"] == 2
