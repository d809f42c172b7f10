"""A stream that is kept outlives what befalls its log: Redis, kvstore and messages are lost, and then its gateway."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
import redis.asyncio

from tests.fakes.backend import FakeBackend
from tests.fakes.gateway import MODEL, RunningGateway
from tests.fakes.servers import RedisServer

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


async def test_redis_is_flushed_under_a_stream(
    gateways: list[RunningGateway], redis_server: RedisServer, backend: FakeBackend
) -> None:
    backend.token_s = 0.05
    async with redis.asyncio.Redis.from_url(redis_server.url) as client:
        address, before = await break_off_after(gateways[0], client.flushall, after=10, then=20)
    assert await taken_up(gateways[1], address, before) == LONG
