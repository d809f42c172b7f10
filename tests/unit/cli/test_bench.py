"""`shoal bench`: the figures by hand-made records, the client against a small server that misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import math
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from services.cli.bench.client import Connection, EventReader, Target
from services.cli.bench.command import chosen_workloads
from services.cli.bench.measure import (
    Record,
    percentile,
    settle_counts,
    summarize,
    time_per_output_token,
    token_gaps,
)
from services.cli.bench.runner import run_workload
from services.cli.bench.workload import WORKLOADS, Workload, plan, shares
from services.common.options import OptionError

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def record(*chunks: tuple[float, int], num_output: int = 0) -> Record:
    return Record(sent=10.0, prompt_len=7, chunks=list(chunks), num_output=num_output, ended=chunks[-1][0])


def test_percentiles_are_linear_between_neighbours():
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert percentile([5.0], 0.99) == 5.0
    assert math.isnan(percentile([], 0.5))


def test_one_token_a_chunk():
    r = record((10.5, 0), (10.6, 0), (10.8, 0), num_output=3)
    assert settle_counts(r) == "chunk"
    assert time_per_output_token(r) == pytest.approx(0.15)
    assert token_gaps(r) == pytest.approx([0.1, 0.2])


def test_tokens_that_share_a_chunk_are_all_counted():
    r = record((10.5, 2), (10.7, 3), (10.9, 1), num_output=6)
    assert settle_counts(r) == "server"
    assert time_per_output_token(r) == pytest.approx(0.4 / 4)
    assert token_gaps(r) == pytest.approx([0.2, 0.0, 0.0, 0.2])


def test_chunks_without_counts_keep_the_total_of_the_usage():
    r = record((10.5, 0), (10.7, 0), (10.9, 0), num_output=7)
    assert settle_counts(r) == "spread"
    assert sum(count for _, count in r.chunks) == 7


def test_all_tokens_in_one_chunk_have_no_time_per_token():
    r = record((10.5, 5), num_output=5)
    settle_counts(r)
    assert time_per_output_token(r) is None
    assert summarize([r], 1.0).output_tokens == 5


def test_the_summary_counts_failures_by_reason_and_leaves_them_out():
    good = record((10.5, 0), (10.6, 0), num_output=2)
    bad = Record(sent=10.0, prompt_len=7, error="status 429: full")
    empty = Record(sent=10.0, prompt_len=7)
    found = summarize([good, bad, bad, empty], 2.0)
    assert (found.num_completed, found.num_failed) == (1, 3)
    assert found.errors == {"status 429: full": 2, "no token came": 1}
    assert found.output_tokens_per_s == 1.0
    assert found.total_tokens_per_s == 4.5
    assert found.ttft_ms.p50 == pytest.approx(500.0)


def test_a_plan_is_a_function_of_its_seed():
    workload = Workload("w", 10, 5, 12, 3, num_prefixes=2, prefix_len=20)
    assert plan(workload, 1, 500) == plan(workload, 1, 500)
    assert plan(workload, 1, 500) != plan(workload, 2, 500)


def test_prompts_share_as_many_prefixes_as_the_workload_says():
    planned = plan(Workload("w", 10, 5, 12, 3, num_prefixes=2, prefix_len=20), 1, 500)
    assert {len(p.prompt_ids) for p in planned} == {30}
    assert len({tuple(p.prompt_ids[:20]) for p in planned}) == 2
    assert len({tuple(p.prompt_ids) for p in planned}) == 12
    assert all(100 <= i < 500 for p in planned for i in p.prompt_ids)


def test_arrivals_follow_the_rate():
    times = [p.at_s for p in plan(Workload("w", 1, 1, 4000, 1, rate=50.0), 3, 500)]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(80.0, rel=0.1)


def test_processes_share_requests_and_concurrency_without_loss():
    planned = plan(Workload("w", 1, 1, 11, 7), 0, 500)
    parts = shares(planned, 7, 3)
    assert sorted(len(requests) for requests, _ in parts) == [3, 4, 4]
    assert sum(concurrency for _, concurrency in parts) == 7
    assert len(shares(planned, 1, 8)) == 1


def test_the_budget_s_workloads_are_these():
    rows = {w.name: (w.prompt_len, w.output_len, w.num_requests, w.concurrency) for w in WORKLOADS.values()}
    assert rows == {
        "c1": (128, 512, 4, 1),
        "c32": (1024, 256, 128, 32),
        "c256": (1024, 256, 768, 256),
        "prefix": (128, 64, 512, 64),
        "long": (7000, 128, 32, 8),
    }
    assert (WORKLOADS["prefix"].num_prefixes, WORKLOADS["prefix"].prefix_len) == (8, 2048)


def flags(**changed: object) -> Namespace:
    names = ("prompt_len", "output_len", "num_requests", "concurrency", "rate", "num_prefixes", "prefix_len")
    return Namespace(**{"workload": "", **dict.fromkeys(names), **changed})


def test_flags_choose_and_change_workloads():
    assert [w.name for w in chosen_workloads(flags(workload="c1,long"))] == ["c1", "long"]
    assert chosen_workloads(flags(workload="c1", num_requests=2))[0].num_requests == 2
    assert chosen_workloads(flags(prompt_len=5))[0].name == "custom"
    with pytest.raises(OptionError, match="c2: not one of"):
        chosen_workloads(flags(workload="c2"))
    with pytest.raises(OptionError, match="positive"):
        chosen_workloads(flags(concurrency=0))


def test_events_survive_any_split_of_the_bytes():
    stream = b'data: {"a":1}\n\n: comment\n\ndata:{"b":2}\r\n\r\ndata: [DONE]\n\n'
    for size in range(1, len(stream)):
        reader = EventReader()
        found = [e for i in range(0, len(stream), size) for e in reader.feed(stream[i : i + size])]
        assert found == [b'{"a":1}', b'{"b":2}', b"[DONE]"]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Target]:
    """Ends when all of its connections are closed."""
    handled: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handled.add(asyncio.current_task())
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield Target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "m", timeout_s=20.0)
        await asyncio.gather(*filter(None, handled))


async def ask(target: Target, output_len: int) -> Record:
    connection = Connection(target)
    found = await connection.run([1], output_len)
    connection.close()
    return found


async def read_request(reader: asyncio.StreamReader) -> dict:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return json.loads(await reader.readexactly(length))


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that keeps the connection and sends two tokens an event where the body is long enough."""
    while True:
        body = await read_request(reader)
        writer.write(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
        )
        left = body["max_tokens"]
        while left:
            ids = [1, 2][: min(2, left)]
            left -= len(ids)
            choice = {"text": "ab", "token_ids": ids} if body.get("return_token_ids") else {"text": "ab"}
            data = b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
            writer.write(chunk(data[:9]) + chunk(data[9:]))
            await writer.drain()
        writer.write(chunk(b'data: {"choices": [{"text": "", "finish_reason": "length"}]}\n\n'))
        usage = {"completion_tokens": body["max_tokens"], "prompt_tokens": len(body["prompt"])}
        writer.write(chunk(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"))
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()


async def test_the_client_counts_tokens_that_share_chunks():
    async with serving(stream) as target:
        connection = Connection(target)
        for length in (5, 1, 8):  # over one kept connection
            found = await connection.run([1, 2, 3], length)
            assert (found.error, found.num_output, found.num_prompt) == ("", length, 3)
            assert len(found.chunks) == math.ceil(length / 2)
            assert settle_counts(found) == ("chunk" if length == 1 else "spread")
        connection.close()


async def test_ids_in_chunks_give_exact_counts():
    async with serving(stream) as plain:
        target = Target(plain.base_url, "m", extra={"return_token_ids": True})
        found = await ask(target, 5)
        assert [count for _, count in found.chunks] == [2, 2, 1]


async def test_a_refusal_is_a_failure_with_its_reason():
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        body = b'{"error": {"message": "the line is full"}}'
        writer.write(b"HTTP/1.1 429 Too Many\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    async with serving(refuse) as target:
        found = await ask(target, 5)
    assert found.error == "status 429: the line is full"


async def test_a_broken_stream_is_a_failure():
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(chunk(b'data: {"choices": [{"text": "a"}]}\n\n'))
        await writer.drain()

    async with serving(break_off) as target:
        found = await ask(target, 5)
    assert "closed" in found.error
    assert summarize([found], 1.0).num_failed == 1


async def test_several_processes_see_every_request():
    progress: list[int] = []
    async with serving(stream) as target:
        found = await run_workload(
            [target],
            Workload("w", 4, 3, 10, 4),
            seed=1,
            vocab_size=500,
            num_processes=2,
            on_progress=progress.append,
        )
    assert (found.num_completed, found.num_failed, found.output_tokens, found.prompt_tokens) == (
        10,
        0,
        30,
        40,
    )
    assert max(progress) == 10


async def test_connections_are_kept_and_shared_out_over_the_servers():
    served: Counter[str] = Counter()

    def counting(name: str) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served[name] += 1
            await stream(reader, writer)

        return handle

    async with serving(counting("a")) as a, serving(counting("b")) as b, serving(counting("c")) as c:
        found = await run_workload(
            [a, b, c],
            Workload("w", 4, 2, 24, 8),
            seed=1,
            vocab_size=500,
            num_processes=2,
            on_progress=lambda _: None,
        )
    assert found.num_completed == 24
    assert sorted(served.values()) == [2, 3, 3]
