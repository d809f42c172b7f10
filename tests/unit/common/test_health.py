import asyncio
import contextlib
import json

import pytest
from prometheus_client import CollectorRegistry, Counter

from services.common.errors import ConfigError
from services.common.health import HealthServer, listen


@pytest.fixture
async def health():
    """(ask, why): asks a running server; ``why[0]`` is the reason why it is not ready."""
    registry, why = CollectorRegistry(), [""]
    Counter("shoal_things", "Things", registry=registry).inc(3)
    server = HealthServer(lambda: why[0], registry, {"tp": "1  (default)"})
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    await server.start(listener)

    async def ask(data):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    yield ask, why
    await server.stop()


def get(path, method="GET"):
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def parts(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), head, body


async def test_health_metrics_and_configuration(health):
    ask, _ = health
    assert parts(await ask(get("/health")))[0] == 200
    assert b"shoal_things_total 3.0" in await ask(get("/metrics?x=1"))
    assert json.loads(parts(await ask(get("/config")))[2]) == {"tp": "1  (default)"}


async def test_ready_gives_the_reason_while_it_is_not(health):
    ask, why = health
    assert parts(await ask(get("/ready")))[0] == 200
    why[0] = "NATS is away"
    status, _, body = parts(await ask(get("/ready")))
    assert (status, json.loads(body)) == (503, {"ready": False, "reason": "NATS is away"})


async def test_head_has_no_body_and_lengths_are_told(health):
    ask, _ = health
    status, head, body = parts(await ask(get("/health", "HEAD")))
    assert (status, body) == (200, b"")
    assert b"Content-Length: 15" in head


@pytest.mark.parametrize(("request_", "status"), [(get("/nowhere"), 404), (get("/health", "POST"), 405)])
async def test_what_is_not_there_is_said(health, request_, status):
    ask, _ = health
    assert parts(await ask(request_))[0] == status


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\r\n\r\n", b"GET\r\n\r\n", b"\xff" * 100 + b"\r\n\r\n", b"x" * 200_000, b"GET / HTTP/1.1\r\n"],
)
async def test_garbage_ends_its_connection_alone(health, garbage):
    ask, _ = health
    with contextlib.suppress(ConnectionError):  # closed before all of it was read
        assert await ask(garbage) == b""
    assert parts(await ask(get("/health")))[0] == 200


def test_a_port_in_use_is_one_clear_line():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            listen("127.0.0.1", port)
