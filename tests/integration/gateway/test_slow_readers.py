"""A client that does not read: what waits for it is kept as tokens and not as events, in a gateway process of its own."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.fakes.backend import FakeBackend, words
from tests.fakes.gateway import MODEL
from tests.fakes.processes import running_service
from tests.fakes.servers import NatsServer, free_port
from tests.fakes.waiting import until

from .test_fuzz import until_answers

NUM_CHOICES, NUM_TOKENS = 4, 8000
BODY: dict[str, Any] = {
    "model": MODEL,
    "prompt": "Once",
    "max_tokens": NUM_TOKENS,
    "n": NUM_CHOICES,
    "stream": True,
    "return_token_ids": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}


def slow_reader(port: int) -> socket.socket:
    """Has asked for a stream, and reads nothing of it. Its socket takes little."""
    data = json.dumps(BODY).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    reader.connect(("127.0.0.1", port))
    reader.sendall(head.encode() + data)
    return reader


def read_to_end(reader: socket.socket) -> bytes:
    reader.settimeout(60)
    return b"".join(iter(lambda: reader.recv(65536), b""))


@pytest.mark.timeout(240)
async def test_what_a_slow_reader_does_not_take_is_not_kept_as_events(
    nats_server: NatsServer, backend: FakeBackend, model_dir: Path
) -> None:
    """Its socket holds the gateway back, and what waits meanwhile is merged: it gets far fewer events, and all text."""
    backend.max_request_tokens = 10 * NUM_TOKENS
    backend.script = lambda request, choice: words("x " * NUM_TOKENS)
    port = free_port()
    flags = ["--model_dir", str(model_dir), "--model_name", MODEL, "--port", str(port)]
    with running_service("gateway", [*flags, *nats_server.flags, "--log_level", "error"]) as gateway:
        address, process = f"http://127.0.0.1:{port}", psutil.Process(gateway.popen.pid)
        await until_answers(address + "/ready")
        before = process.memory_info().rss
        with slow_reader(port) as reader:
            await until(lambda: any(len(run.sent) == NUM_CHOICES for run in backend.running.values()))
            (run,) = (run for run in backend.running.values() if len(run.sent) == NUM_CHOICES)
            await until(lambda: min(run.sent.values()) >= NUM_TOKENS, "all output", 150)
            async with httpx.AsyncClient(
                base_url=address, timeout=100, verify=False
            ) as http:  # its frames come after all those
                body = {"model": MODEL, "prompt": "Once", "max_tokens": 8}
                assert (await http.post("/v1/completions", json=body)).status_code == 200
            grown = process.memory_info().rss - before
            answer = await asyncio.to_thread(read_to_end, reader)
        assert gateway.terminate() == 0
    events = [event for event in answer.split(b"\n\n") if b"data: {" in event]
    as_events = NUM_CHOICES * NUM_TOKENS * len(events[0])
    print(
        f"{len(events)} events; grown by {grown / 2**20:.1f} MiB for {as_events / 2**20:.1f} MiB of single ones"
    )
    assert as_events > 10 * 2**20, "more than sockets take"
    assert len(events) < NUM_CHOICES * NUM_TOKENS / 2
    assert grown < as_events / 2
    assert b'"completion_tokens":%d' % (NUM_CHOICES * NUM_TOKENS) in answer
    assert b"data: [DONE]" in answer
