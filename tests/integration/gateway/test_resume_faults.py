"""A stream that is kept outlives what befalls its log: Redis, kvstore and messages are lost, and then its gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
import redis.asyncio

from services.common.bus.nats import NatsBus
from tests.fakes.backend import FakeBackend
from tests.fakes.gateway import MODEL, RunningGateway
from tests.fakes.processes import ServiceProcess, running_service
from tests.fakes.proxy import slow_proxy
from tests.fakes.servers import NatsServer, RedisServer

from .kept import KEY, LONG, read, texts
from .sse import Event, events

BODY = {"model": MODEL, "prompt": "Once", "max_tokens": 100, "stream": True}


async def break_off_after(
    gateway: RunningGateway, trouble: Callable[[], Awaitable[object]], *, after: int, then: int
) -> tuple[str, list[Event]]:
    """A stream's address and what came of it: ``after`` events, then the trouble, then some more events."""
    found: list[Event] = []
    async with gateway.http(**KEY) as http, http.stream("POST", "/v1/completions", json=BODY) as answer:
        if not after:
            await trouble()
        async for event in events(answer):
            found.append(event)
            if len(found) == after:
                await trouble()
            if len(found) == after + then:
                break
    return answer.headers["x-stream-path"], found


async def taken_up(gateway: RunningGateway, address: str, before: list[Event]) -> str:
    """The whole text of a stream that goes on there."""
    headers = {"Last-Event-ID": before[-1].id}
    async with gateway.http(**KEY) as http, http.stream("GET", address, headers=headers) as answer:
        assert answer.status_code == httpx.codes.OK, await answer.aread()
        return texts(before + await read(answer))


@pytest.fixture
async def client(redis_server: RedisServer) -> AsyncIterator[redis.asyncio.Redis]:
    """A test's own hands on Redis."""
    async with redis.asyncio.Redis.from_url(redis_server.url, socket_timeout=1) as made:
        yield made


@pytest.fixture(autouse=True)
def slow_tokens(gateways: list[RunningGateway], backend: FakeBackend) -> None:
    """A stream lasts for two seconds, several times as long as between two flushes of its log."""
    backend.token_s = 0.05


async def test_redis_is_flushed_under_a_stream(
    gateways: list[RunningGateway], client: redis.asyncio.Redis
) -> None:
    address, before = await break_off_after(gateways[0], client.flushall, after=10, then=20)
    assert await taken_up(gateways[1], address, before) == LONG


async def test_redis_is_flushed_and_the_gateway_dies_at_once(
    gateways: list[RunningGateway], client: redis.asyncio.Redis
) -> None:
    """Nobody sends anything again: kvstore has kept what it wrote."""
    address, before = await break_off_after(gateways[0], client.flushall, after=20, then=0)
    assert await taken_up(gateways[1], address, before) == LONG


async def test_redis_is_killed_and_the_stream_taken_up_while_it_is_away(
    gateways: list[RunningGateway], redis_server: RedisServer
) -> None:
    async def kill() -> None:
        redis_server.kill()

    address, before = await break_off_after(gateways[0], kill, after=10, then=20)
    assert await taken_up(gateways[1], address, before) == LONG
    redis_server.start()
    assert await taken_up(gateways[1], address, before) == LONG


async def test_kvstore_is_killed_with_what_it_had_not_written_and_another_starts(
    gateways: list[RunningGateway], kvstore: ServiceProcess, kvstore_flags: list[str]
) -> None:
    address, before = await break_off_after(
        gateways[0], lambda: asyncio.to_thread(kvstore.stop), after=10, then=20
    )
    with running_service("kvstore", kvstore_flags) as again:
        await again.until_ready()
        assert await taken_up(gateways[1], address, before) == LONG


async def test_redis_and_kvstore_are_killed_and_the_gateway_writes_all_again(
    gateways: list[RunningGateway],
    kvstore: ServiceProcess,
    kvstore_flags: list[str],
    redis_server: RedisServer,
    client: redis.asyncio.Redis,
) -> None:
    async with gateways[0].http(**KEY) as http, http.stream("POST", "/v1/completions", json=BODY) as answer:
        found = events(answer)
        before = [await anext(found) for _ in range(10)]
        kvstore.stop()
        redis_server.kill()
        redis_server.start()
        with running_service("kvstore", kvstore_flags) as again:
            await again.until_ready()
            before += [event async for event in found]
            name = answer.headers["x-stream-path"].rpartition("/")[2]
            while await client.hlen(f"shoal:stream:{name}") < 3:  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.05)
            assert await taken_up(gateways[1], answer.headers["x-stream-path"], before[:5]) == LONG


async def test_a_stream_that_begins_without_kvstore_can_be_taken_up_when_there_is_one(
    gateways: list[RunningGateway], kvstore: ServiceProcess, kvstore_flags: list[str]
) -> None:
    kvstore.stop()
    async with gateways[0].http(**KEY) as http, http.stream("POST", "/v1/completions", json=BODY) as answer:
        found = events(answer)
        before = [await anext(found) for _ in range(3)]
        with running_service("kvstore", kvstore_flags) as again:
            await again.until_ready()
            before += [event async for event in found]
            assert await taken_up(gateways[1], answer.headers["x-stream-path"], before[:5]) == LONG


async def test_the_first_append_is_lost(
    gateways: list[RunningGateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the gateway and kvstore, as where NATS is killed with it."""
    request, lost = NatsBus.request, list[str]()

    async def losing(bus: NatsBus, subject: str, data: bytes, timeout_s: float) -> bytes:
        if subject.endswith("log.append") and not lost:
            lost.append(subject)
            return await request(bus, "nobody.listens", data, timeout_s)
        return await request(bus, subject, data, timeout_s)

    monkeypatch.setattr(NatsBus, "request", losing)
    address, before = await break_off_after(gateways[0], lambda: asyncio.sleep(0), after=1, then=29)
    assert lost
    assert await taken_up(gateways[1], address, before) == LONG


@pytest.mark.parametrize("delay_s", [0.4, 1.5])  # shorter than kvstore waits for an answer, and longer
async def test_a_slow_redis_holds_nothing_up(
    nats_server: NatsServer,
    redis_server: RedisServer,
    gateways: list[RunningGateway],
    kvstore: ServiceProcess,
    delay_s: float,
) -> None:
    """Not stopped: it answers everything, some time later."""
    kvstore.stop()
    with slow_proxy(redis_server.port, delay_s) as port:
        url = redis_server.url.replace(f":{redis_server.port}/", f":{port}/")
        flags = [*nats_server.flags, "--redis_url", url, "--stream_retention", "20"]
        with running_service("kvstore", flags) as slow:
            await slow.until_ready()
            began = asyncio.get_running_loop().time()
            address, found = await break_off_after(gateways[0], lambda: asyncio.sleep(0), after=1, then=100)
            assert texts(found) == LONG
            lasted = asyncio.get_running_loop().time() - began
            assert lasted < 10, "a round trip for each token would take 16 s, and 60"
            assert await taken_up(gateways[1], address, found[:10]) == LONG
