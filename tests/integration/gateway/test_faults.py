"""Streams go on while what is behind the gateway loses messages, is drained, dies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.common.bus.nats import NatsBus
from services.common.subjects import Subjects
from tests.fakes.backend import FakeBackend, words
from tests.fakes.gateway import MODEL, RunningGateway
from tests.fakes.servers import NatsServer
from tests.fakes.waiting import until

from .conftest import TEXT
from .sse import completion_text, events

BODY = {"model": MODEL, "prompt": "Once", "stream": True, "max_tokens": 100}
LONG = " ".join(f"w{i}" for i in range(60))


async def second(connect_bus: Callable[..., Awaitable[NatsBus]], first: FakeBackend) -> FakeBackend:
    other = FakeBackend(
        await connect_bus("second"), Subjects(), MODEL, first.script, name="2", token_s=first.token_s
    )
    await other.start()
    return other


def is_streaming(backend: FakeBackend) -> bool:
    return any(5 < run.sent[0] < 60 for name, run in backend.running.items() if "canary" not in name)


def is_running(backend: FakeBackend) -> bool:
    return any("canary" not in name for name in backend.running)


async def stream_text(gateway: RunningGateway, **fields: object) -> str:
    async with gateway.http() as http, http.stream("POST", "/v1/completions", json=BODY | fields) as answer:
        return completion_text([event async for event in events(answer)])


async def test_lost_frames_are_asked_for_again(gateway: RunningGateway, backend: FakeBackend) -> None:
    lost: set[int] = set()

    def loses(stream: str, index: int) -> bool:
        if index in (0, 3, 6) and index not in lost:
            lost.add(index)
            return True
        return False

    backend.loses = loses
    assert await stream_text(gateway) == TEXT
    assert lost == {0, 3, 6}
    assert backend.replayed


async def test_a_drained_worker_hands_over_in_the_middle_of_a_stream(
    gateway: RunningGateway, backend: FakeBackend, connect_bus: Callable[..., Awaitable[NatsBus]]
) -> None:
    backend.script = lambda request, choice: words(LONG)
    backend.token_s = 0.01
    reading = asyncio.create_task(stream_text(gateway))
    await until(lambda: is_streaming(backend))
    await backend.bounce()
    assert await reading == LONG
    resumed = backend.client_requests()[-1]
    assert resumed.attempt == 2
    assert resumed.choices[0].output_ids == list(range(10, 10 + len(resumed.choices[0].output_ids)))
    assert resumed.choices[0].output_ids


async def test_a_killed_backend_is_replaced_without_a_trace_in_the_stream(
    gateway: RunningGateway, backend: FakeBackend, connect_bus: Callable[..., Awaitable[NatsBus]]
) -> None:
    backend.script = lambda request, choice: words(LONG)
    backend.token_s = 0.01
    reading = asyncio.create_task(stream_text(gateway))
    await until(lambda: is_streaming(backend))
    backend.token_s, token_s = 3600.0, backend.token_s  # it stays in the middle until it is killed
    other = await second(connect_bus, backend)
    other.token_s = token_s
    await backend.stop()
    assert await reading == LONG
    assert [
        request.attempt for request in other.submitted if not request.request_id.startswith("canary")
    ] == [2]
    await other.stop()


async def test_a_paused_backend_that_comes_back_is_fenced(
    gateway: RunningGateway, backend: FakeBackend, connect_bus: Callable[..., Awaitable[NatsBus]]
) -> None:
    backend.script = lambda request, choice: words(LONG)
    backend.token_s = 0.02
    reading = asyncio.create_task(stream_text(gateway))
    await until(lambda: is_streaming(backend))
    await backend.freeze()
    other = await second(connect_bus, backend)
    await until(lambda: is_running(other), "the resubmission")
    backend.thaw()
    assert await reading == LONG
    await until(lambda: backend.cancelled, "the fenced attempt to be cancelled")
    await other.stop()


async def test_a_restart_of_nats_is_a_pause(
    gateway: RunningGateway, backend: FakeBackend, nats_server: NatsServer
) -> None:
    backend.script = lambda request, choice: words(LONG)
    backend.token_s = 0.01
    reading = asyncio.create_task(stream_text(gateway))
    await until(lambda: is_streaming(backend))
    nats_server.kill()
    await asyncio.sleep(0.3)
    nats_server.start()
    assert await reading == LONG
