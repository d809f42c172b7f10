"""The worker's control process over memory and over a real NATS, with an engine that has no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from services.common.bus import Bus
from services.common.bus.memory import MemoryBroker, MemoryBus
from services.common.lifecycle import Timing
from services.common.messages import frames
from services.common.messages.control import Cancel
from services.common.messages.events import DRAINING
from services.worker.app import WorkerOptions
from tests.fakes.engine import FakeEngine, expected_output
from tests.fakes.waiting import until
from tests.integration.worker.peer import Peer, WorkerUnderTest, generate

Connect = Callable[[str], Awaitable[Bus]]


@pytest.fixture(params=["memory", "nats"])
def connect(request: pytest.FixtureRequest) -> Connect:
    if request.param == "nats":
        return request.getfixturevalue("connect_bus")
    broker = MemoryBroker()

    async def connect_memory(name: str) -> Bus:
        return MemoryBus(broker, name)

    return connect_memory


@pytest.fixture
async def start(connect: Connect) -> AsyncIterator[Callable[..., Awaitable[tuple[WorkerUnderTest, Peer]]]]:
    running: list[WorkerUnderTest] = []

    async def make(
        engine: FakeEngine, detokenizers: tuple[str, ...] = ("d",), **fields: Any
    ) -> tuple[WorkerUnderTest, Peer]:
        peer = Peer(await connect("peer"))
        await peer.start(detokenizers)
        worker = WorkerUnderTest(await connect("worker"), engine, **fields)
        await worker.runtime.start()
        running.append(worker)
        return worker, peer

    yield make
    for worker in running:
        await worker.runtime.stop()


Start = Callable[..., Awaitable[tuple[WorkerUnderTest, Peer]]]


def expected(request: Any, choice: int, engine: FakeEngine) -> list[int]:
    return expected_output(
        request.prompt_ids,
        request.choices[choice].seed,
        request.sampling,
        vocab_size=engine.info.vocab_size,
        eos_ids=engine.info.eos_ids,
    )


async def test_streams_arrive_whole_with_at_most_one_frame_a_step_for_each_detokenizer(start: Start) -> None:
    engine = FakeEngine(max_running=16)
    worker, peer = await start(engine, ("d0", "d1"))
    requests = [
        generate(f"r{i}", [i, 5, 9], seeds=(i, i + 100), detokenizer_id=f"d{i % 2}", max_tokens=4 + i)
        for i in range(8)
    ]
    for request in requests:
        assert (await peer.submit(request)).accepted
    await until(lambda: len(peer.finish) == 16)
    for request in requests:
        for choice in range(2):
            assert peer.ids[f"{request.request_id}:{choice}"] == expected(request, choice, engine)
    assert max(peer.num_frames.values()) <= engine.num_steps
    assert (
        worker.events("r0")
        == ["submitted", "scheduled", "scheduled", "first token", "first token"] + ["finished"] * 2
    )


async def test_a_request_sent_twice_runs_once_and_a_lower_attempt_is_refused(start: Start) -> None:
    engine = FakeEngine(step_s=0.5)  # it is asked three times meanwhile
    _, peer = await start(engine)
    request = generate(max_tokens=4, attempt=2)
    assert (await peer.submit(request)).accepted
    assert (await peer.submit(request)).accepted
    assert engine.num_live == 1
    stale = await peer.submit(generate(attempt=1))
    assert (stale.accepted, stale.retry, stale.code) == (False, False, "stale_attempt")
    await until(lambda: peer.finish)
    assert peer.ids["r:0"] == expected(request, 0, engine)


async def test_a_higher_attempt_replaces_the_lower_and_goes_on_where_it_was(start: Start) -> None:
    engine = FakeEngine(step_s=0.02)
    _, peer = await start(engine)
    request = generate(max_tokens=80)
    await peer.submit(request)
    await until(lambda: len(peer.ids.get("r:0", [])) >= 3)
    have = peer.ids["r:0"][:2]
    peer.ids.clear()
    await peer.submit(generate(max_tokens=80, attempt=2, outputs=(have,)))
    await until(lambda: peer.finish)
    assert peer.ids["r:0"] == expected(request, 0, engine)
    assert peer.frames[-1].attempts == [2]
    assert engine.num_live == 0


async def test_full_is_for_another_worker_and_wrong_is_for_nobody(start: Start) -> None:
    engine = FakeEngine(step_s=3600.0, max_running=1)  # nothing ends meanwhile
    _, peer = await start(engine, options=WorkerOptions(max_waiting=1))
    for i in range(2):
        assert (await peer.submit(generate(f"r{i}", max_tokens=50))).accepted
    full = await peer.submit(generate("r2"))
    assert (full.accepted, full.retry) == (False, True)
    long = await peer.submit(generate("r3", max_tokens=5000))
    assert (long.accepted, long.retry, long.code) == (False, False, "context_length_exceeded")
    foreign = await peer.submit(generate("r4", [1, 999]))
    assert (foreign.retry, foreign.code) == (False, "invalid_value")


async def test_cancel_frees_the_engine_and_leaves_the_holdings(start: Start) -> None:
    engine = FakeEngine(step_s=0.02)
    worker, peer = await start(engine)
    await peer.submit(generate(max_tokens=1000))
    await until(lambda: peer.holdings.request_ids == ["r"])
    await peer.cancel(Cancel(request_ids=["r"], attempts=[1], reason="client left"))
    await until(lambda: engine.num_live == 0)
    await peer.submit(generate("s", max_tokens=1000))
    await until(lambda: peer.holdings.request_ids == ["s"])
    assert "cancelled" in worker.events("r")


async def test_replay_goes_to_the_new_detokenizer_and_the_stream_follows(start: Start) -> None:
    engine = FakeEngine(step_s=0.02)
    worker, peer = await start(engine, ("d", "d2"))
    request = generate(max_tokens=80)
    await peer.submit(request)
    await until(lambda: len(peer.ids.get("r:0", [])) >= 3)
    await peer.replay("r:0", 1, "d2")
    await until(lambda: peer.finish)
    assert peer.ids["r:0"] == expected(request, 0, engine)
    assert peer.num_frames["test.detokenizer.d2.frames"] > 1
    peer.ids.clear()
    await peer.replay("r:0", 1, "d")  # also after the end
    await until(lambda: peer.ids.get("r:0") == expected(request, 0, engine))
    assert worker.events("r").count("replayed") == 2


async def test_holdings_name_streams_with_their_next_index_until_the_retention_is_over(start: Start) -> None:
    engine = FakeEngine(step_s=0.01)
    _, peer = await start(engine, options=WorkerOptions(replay_retention_s=2.0))
    await peer.submit(generate(max_tokens=5))
    await until(lambda: peer.holdings.finished == [1])
    assert (peer.holdings.streams, peer.holdings.next_index) == (["r:0"], [5])
    await peer.submit(generate("s", max_tokens=300))  # holdings go on, without the first
    await until(lambda: peer.holdings.request_ids == ["s"])


async def test_requests_of_a_silent_gateway_are_freed_and_others_kept(start: Start) -> None:
    engine = FakeEngine(step_s=0.02)
    _, peer = await start(engine, timing=Timing(heartbeat_s=0.05, lease_s=0.3))
    await peer.submit(generate("mine", max_tokens=4000))
    await peer.submit(generate("orphan", max_tokens=4000, gateway_id="gone"))

    async def beat() -> None:
        while True:
            await peer.beat_as_gateway()
            await asyncio.sleep(0.02)

    beating = asyncio.create_task(beat())
    await until(lambda: engine.num_live == 1)
    await until(lambda: peer.holdings.request_ids == ["mine"])
    beating.cancel()


async def test_drain_refuses_new_work_finishes_what_it_can_and_gives_back_the_rest(start: Start) -> None:
    engine = FakeEngine(step_s=0.02)
    worker, peer = await start(engine)
    short, long = generate("short", max_tokens=20), generate("long", max_tokens=4000)
    await peer.submit(short)
    await peer.submit(long)
    draining = asyncio.create_task(worker.runtime.drain())
    await until(lambda: peer.beats and peer.beats[-1].state == DRAINING)
    late = await peer.submit(generate("late"))
    assert (late.accepted, late.retry) == (False, True)
    await draining
    await until(lambda: peer.bounced)
    assert peer.ids["short:0"] == expected(short, 0, engine)
    assert peer.bounced[0].request_ids == ["long"]
    assert engine.num_live == 0


async def test_a_dead_engine_gives_back_everything_at_once_and_ends_the_process(start: Start) -> None:
    engine = FakeEngine(step_s=0.02)
    worker, peer = await start(engine)
    for name in ("a", "b"):
        await peer.submit(generate(name, max_tokens=4000))
    await engine.die("killed by signal 9")
    await until(lambda: peer.bounced)
    assert peer.bounced[0].request_ids == ["a", "b"]
    assert peer.bounced[0].suspects == [0, 0]
    assert worker.failures == ["the engine died: killed by signal 9"]
    assert (await peer.submit(generate("c"))).retry


async def test_a_crash_that_nobody_explains_makes_every_request_a_suspect(start: Start) -> None:
    engine = FakeEngine(step_s=0.02)
    _, peer = await start(engine)
    for name in ("a", "b"):
        await peer.submit(generate(name, max_tokens=4000))
    await engine.die("killed by signal 11", None)
    await until(lambda: peer.bounced)
    assert peer.bounced[0].suspects == [1, 1]
    assert "killed by signal 11" in peer.bounced[0].reason


async def test_cache_events_and_the_snapshot_agree(start: Start) -> None:
    engine = FakeEngine(step_s=0.005, max_cached=6)
    _, peer = await start(engine)
    for i in range(5):
        await peer.submit(generate(f"r{i}", list(range(i, i + 40)), max_tokens=2))
    await until(lambda: len(peer.finish) == 5)
    snapshot = await peer.snapshot()
    await until(lambda: len(peer.kv_events) == snapshot.seq)
    known: set[bytes] = set()
    for seq, event in enumerate(peer.kv_events, start=1):
        assert event.seq == seq
        known -= {event.removed[i : i + 16] for i in range(0, len(event.removed), 16)}
        known |= {event.stored[i : i + 16] for i in range(0, len(event.stored), 16)}
    assert known == {snapshot.hashes[i : i + 16] for i in range(0, len(snapshot.hashes), 16)}
    assert len(known) == 6


async def test_load_is_told_early_and_returns_to_nothing(start: Start) -> None:
    engine = FakeEngine(step_s=0.01, max_running=2)
    _, peer = await start(engine)
    for i in range(3):
        await peer.submit(generate(f"r{i}", max_tokens=10))
    await until(lambda: any(b.worker and b.worker.running == 2 and b.worker.waiting == 1 for b in peer.beats))
    await until(lambda: len(peer.finish) == 3)
    await until(lambda: peer.beats[-1].worker and peer.beats[-1].worker.running == 0)
    last = peer.beats[-1].worker
    assert last is not None
    assert (last.waiting, last.waiting_prefill_tokens, last.free_blocks) == (0, 0, last.total_blocks)


async def test_a_resume_whose_choice_had_ended_only_says_so(start: Start) -> None:
    engine = FakeEngine()
    _, peer = await start(engine)
    request = generate(attempt=2, max_tokens=3, outputs=([4, 5, 6],))
    await peer.submit(request)
    await until(lambda: peer.finish)
    assert peer.finish == {"r:0": frames.LENGTH}
    assert peer.ids["r:0"] == [4, 5, 6]


async def test_bytes_that_are_no_request_are_refused_and_harm_nothing(start: Start, connect: Connect) -> None:
    engine = FakeEngine()
    _, peer = await start(engine)
    other = await connect("stranger")
    answer = await other.request("test.worker.w1.submit", b"\xc1nonsense", 5.0)
    assert b"malformed_message" in answer
    await peer.submit(generate())
    await until(lambda: peer.finish)
