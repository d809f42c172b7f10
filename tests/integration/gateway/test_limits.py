"""What a gateway refuses over HTTP before any work is done, and how it says when to come again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from services.common.bus.nats import NatsBus
from services.common.errors import Unavailable
from services.gateway.life.spec import Patience
from services.gateway.load import Load
from tests.fakes.backend import FakeBackend
from tests.fakes.gateway import MODEL, RunningGateway, running_gateway
from tests.fakes.waiting import until
from tests.integration.gateway.conftest import until_ready

COMPLETIONS = "/v1/completions"
BODY = {"model": MODEL, "prompt": "abc", "max_tokens": 20}

Start = Callable[..., AbstractAsyncContextManager[RunningGateway]]


@pytest.fixture
async def start(
    connect_bus: Callable[..., Awaitable[NatsBus]], model_dir: Path, backend: FakeBackend
) -> Start:
    """Starts a gateway with options, until it is ready."""

    @asynccontextmanager
    async def starting(*options: str) -> AsyncIterator[RunningGateway]:
        async with running_gateway(await connect_bus("gateway"), model_dir, *options) as running:
            await until_ready(running)
            yield running

    return starting


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


def error_code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


async def test_requests_a_minute_are_limited_per_key(start: Start) -> None:
    async with (
        start("--limit_requests_per_minute", "2", "--api_keys", "k1,k2") as running,
        running.http() as http,
    ):
        answers = [await http.post(COMPLETIONS, json=BODY, headers=key("k1")) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert (error_code(answers[2]), 1 <= int(answers[2].headers["retry-after"]) <= 60) == (
            "rate_limit_exceeded",
            True,
        )
        assert (await http.post(COMPLETIONS, json=BODY, headers=key("k2"))).status_code == 200


async def test_tokens_a_minute_count_prompts_and_outputs_per_key(start: Start, backend: FakeBackend) -> None:
    """The first call is let in and uses more than the minute has; the next waits until that is paid back."""
    async with (
        start("--limit_tokens_per_minute", "6", "--api_keys", "k1,k2") as running,
        running.http() as http,
    ):
        first = await http.post(COMPLETIONS, json=BODY, headers=key("k1"))
        assert (first.status_code, first.json()["usage"]["total_tokens"] > 6) == (200, True)
        backend.submitted.clear()
        second = await http.post(COMPLETIONS, json=BODY, headers=key("k1"))
        assert (second.status_code, error_code(second)) == (429, "rate_limit_exceeded")
        assert "--limit_tokens_per_minute" in second.json()["error"]["message"]
        assert 1 <= int(second.headers["retry-after"]) <= 600
        assert backend.client_requests() == [], "no GPU time was spent on it"
        assert (await http.post(COMPLETIONS, json=BODY, headers=key("k2"))).status_code == 200


async def test_requests_at_once_are_limited_per_key(start: Start, backend: FakeBackend) -> None:
    backend.token_s = 0.1
    async with start("--limit_concurrency", "1", "--api_keys", "k1,k2") as running, running.http() as http:
        backend.submitted.clear()
        first = asyncio.create_task(http.post(COMPLETIONS, json=BODY, headers=key("k1")))
        await until(backend.client_requests)
        second = await http.post(COMPLETIONS, json=BODY, headers=key("k1"))
        assert (second.status_code, error_code(second)) == (429, "rate_limit_exceeded")
        assert (second.headers["retry-after"], "--limit_concurrency" in second.text) == ("1", True)
        assert (await http.post(COMPLETIONS, json=BODY, headers=key("k2"))).status_code == 200
        assert (await first).status_code == 200
        assert (await http.post(COMPLETIONS, json=BODY, headers=key("k1"))).status_code == 200


async def test_uploads_count_as_requests_from_their_headers_on(start: Start) -> None:
    async with start("--max_connections", "2") as running, running.http() as http:
        uploads = []
        for _ in range(2):
            host, port = running.address.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"POST {COMPLETIONS} HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n{{".encode())
            uploads.append((reader, writer))
        load = running.app.gateway.load
        await until(lambda: (load.num_exchanges, load.held_bytes) == (2, 2))
        refused = await http.post(COMPLETIONS, json=BODY)
        assert (refused.status_code, error_code(refused)) == (503, "service_unavailable")
        assert (refused.headers["retry-after"], "--max_connections" in refused.text) == ("1", True)
        assert (await http.get("/health")).status_code == 200
        for _, writer in uploads:
            writer.close()
        await until(lambda: (load.num_exchanges, load.held_bytes) == (0, 0))
        assert (await http.post(COMPLETIONS, json=BODY)).status_code == 200


async def test_bodies_together_are_bounded(start: Start) -> None:
    async with start() as running, running.http() as http:
        running.app.gateway.load.max_held_bytes = 1000
        answer = await http.post(COMPLETIONS, json=BODY | {"user": "u" * 2000})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await http.post(COMPLETIONS, json=BODY)).status_code == 200
        assert running.app.gateway.load.held_bytes == 0


async def test_nobody_who_could_take_a_request_is_503_with_the_time_to_come_again(
    start: Start, backend: FakeBackend
) -> None:
    async with start() as running, running.http() as http:
        running.app.gateway.client.patience = Patience(no_router_s=0.3)
        await backend.stop()
        await until(lambda: running.runtime.not_ready())
        answers = [await http.post(COMPLETIONS, json=BODY | {"stream": stream}) for stream in (False, True)]
        for answer in answers:
            assert (answer.status_code, error_code(answer)) == (503, "service_unavailable")
            assert answer.headers["retry-after"] == "1"


def test_an_exchange_gives_back_what_it_held() -> None:
    load = Load(max_exchanges=1, max_held_bytes=10)
    with load.exchange() as first:
        first.hold(6)
        load.check_room()
        with load.exchange() as second:
            with pytest.raises(Unavailable, match="max_connections"):
                load.check_room()
            with pytest.raises(Unavailable, match="10 bytes"):
                second.hold(5)
            second.hold(4)
        assert load.held_bytes == 6
    assert (load.num_exchanges, load.held_bytes) == (0, 0)
