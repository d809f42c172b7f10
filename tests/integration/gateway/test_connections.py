"""The gateway's HTTP server over real sockets: what it takes of a client, and how it ends without losing one."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from services.common.health import listen
from services.common.options import parse
from services.gateway.http import connection
from services.gateway.http.server import HttpServer
from tests.fakes.waiting import until

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\n"


class Site:
    """An application that answers its path, after a gate that tests open, and notes what it has seen."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.num_gone = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.num_asked += 1
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            self.num_gone += 1
            return
        if scope["path"] == "/stream":
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self.gate.wait()
            await send({"type": "http.response.body", "body": b"streamed"})
            return
        await self.gate.wait()
        await PlainTextResponse(f"{scope['path']} {len(body)}")(scope, receive, send)


class Served:
    def __init__(self, server: HttpServer, site: Site, address: tuple[str, int], refused: list[int]) -> None:
        self.server, self.site, self.address, self.refused = server, site, address, refused

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address)


@asynccontextmanager
async def serving(*options: str) -> AsyncIterator[Served]:
    site, refused = Site(), list[int]()
    listener = listen("127.0.0.1", 0)
    address = listener.getsockname()[:2]
    server = HttpServer(site, parse("gateway", options, {}), listener, refused.append)
    await server.start()
    try:
        yield Served(server, site, address, refused)
    finally:
        await server.stop()


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One answer with a length or in chunks: (status, headers, body)."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    if headers.get("transfer-encoding") == "chunked":
        body = (await reader.readuntil(b"0\r\n\r\n")).split(b"\r\n")[1]
    else:
        body = await reader.readexactly(int(headers["content-length"]))
    return int(head[0].split()[1]), headers, body


async def is_closed(reader: asyncio.StreamReader) -> bool:
    return await asyncio.wait_for(reader.read(), 10) == b""


# -- the end of a server ---------------------------------------------------------------------------------------


async def test_who_connected_before_a_drain_and_asks_in_it_is_answered() -> None:
    async with serving() as served:
        fresh, used = await served.connect(), await served.connect()
        used[1].write(GET)
        await answer_of(used[0])
        draining = asyncio.create_task(served.server.drain())
        await asyncio.sleep(0.2)
        for reader, writer in (fresh, used):
            writer.write(GET)
            status, headers, _ = await answer_of(reader)
            assert (status, headers["connection"]) == (200, "close")
            assert await is_closed(reader)
            writer.close()
        await draining


async def test_who_waits_in_the_backlog_when_the_port_closes_is_answered() -> None:
    """Nobody awaits between the connections and the end of the listener, so the server has accepted none of them."""
    async with serving("--drain_grace", "0") as served:
        clients = [socket.create_connection(served.address) for _ in range(20)]
        for client in clients:
            client.sendall(GET)
        draining = asyncio.create_task(served.server.drain())
        for client in clients:
            reader, writer = await asyncio.open_connection(sock=client)
            assert (await answer_of(reader))[0] == 200
            writer.close()
        await draining
        with pytest.raises(ConnectionRefusedError):
            await served.connect()


async def test_new_connections_are_taken_in_the_grace_and_answered_for_the_last_time() -> None:
    async with serving() as served:
        draining = asyncio.create_task(served.server.drain())
        await asyncio.sleep(0.3)
        reader, writer = await served.connect()
        writer.write(GET)
        status, headers, _ = await answer_of(reader)
        assert (status, headers["connection"]) == (200, "close")
        writer.close()
        await draining


async def test_a_client_that_was_promised_its_connection_may_ask_again_after_its_stream() -> None:
    """The headers of the stream left before the drain, so the client could not know that it would be the last."""
    async with serving("--drain_grace", "0") as served:
        served.site.gate.clear()
        reader, writer = await served.connect()
        writer.write(GET.replace(b" / ", b" /stream "))
        await until(lambda: served.site.num_asked)
        draining = asyncio.create_task(served.server.drain())
        await asyncio.sleep(0.5)
        served.site.gate.set()
        assert (await answer_of(reader))[2] == b"streamed"
        writer.write(GET)
        status, headers, _ = await answer_of(reader)
        assert (status, headers["connection"]) == (200, "close")
        writer.close()
        await draining


async def test_connections_without_a_request_hold_a_drain_up_for_a_second_only() -> None:
    async with serving("--drain_grace", "0") as served:
        reader, writer = await served.connect()
        await asyncio.wait_for(served.server.drain(), 10)
        assert await is_closed(reader)
        writer.close()


@pytest.mark.parametrize("num_kept", [0, 16], ids=["new connections", "kept connections"])
async def test_clients_that_never_pause_lose_nothing_to_a_drain(num_kept: int) -> None:
    failures: list[Exception] = []
    async with serving() as served:
        limits = httpx.Limits(max_keepalive_connections=num_kept)
        base = "http://{}:{}".format(*served.address)
        async with httpx.AsyncClient(base_url=base, limits=limits, timeout=20, verify=False) as http:

            async def ask() -> None:
                while True:
                    try:
                        (await http.post("/", content=b"x" * 1000)).raise_for_status()
                    except httpx.ConnectError:
                        return  # the port is closed: a balancer asks elsewhere
                    except httpx.HTTPError as error:
                        failures.append(error)
                        return

            asking = [asyncio.create_task(ask()) for _ in range(16)]
            await until(lambda: served.site.num_asked > 50)
            await served.server.drain()
            await asyncio.gather(*asking)
    assert failures == []


# -- what it takes of a client ---------------------------------------------------------------------------------

ENDLESS = {
    "headers": (POST, b"a: b\r\n" * 1000),
    "one header": (POST + b"a: ", b"b" * 10_000),
    "a header's name": (POST, b"b" * 10_000),
    "the path": (b"GET /", b"b" * 10_000),
    "a chunk's extension": (POST + b"Transfer-Encoding: chunked\r\n\r\n5;a=", b"b" * 10_000),
    "trailers": (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"a: b\r\n" * 1000),
    "a trailer": (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\na: ", b"b" * 10_000),
}


@pytest.mark.parametrize("case", ENDLESS)
async def test_headers_without_end_are_refused_and_not_kept(case: str) -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        begin, more = ENDLESS[case]
        writer.write(begin)
        sent = 0
        while not served.refused and sent < 20_000_000:
            writer.write(more)
            sent += len(more)
            await asyncio.sleep(0)
        status, headers, body = await answer_of(reader)
        assert (status, headers["connection"], served.refused) == (431, "close", [431])
        error = json.loads(body)["error"]
        assert error["code"] == "request_headers_too_large"
        assert "32768" in error["message"]
        assert "--max_header_bytes" in error["message"]
        assert sent < 1_000_000
        assert served.site.num_asked == served.site.num_gone, "nothing of it reached an endpoint"
        writer.close()


async def test_headers_up_to_the_limit_and_a_large_body_behind_them_are_taken() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        for _ in range(2):
            head = POST + b"A: " + b"a" * 32_000 + b"\r\nContent-Length: 3000000\r\n\r\n"
            writer.write(head + b"x" * 3_000_000)
            assert (await answer_of(reader))[2] == b"/ 3000000"
        writer.close()


async def test_what_is_not_http_is_told_so_in_json() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        status, _, body = await answer_of(reader)
        assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_request")
        writer.close()


@pytest.mark.parametrize("sent", [GET[:20], POST + b"Content-Length: 5\r\n\r\nab"], ids=["head", "body"])
async def test_a_request_that_does_not_arrive_in_time_ends(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "READ_TIMEOUT_S", 0.3)
    async with serving() as served:
        reader, writer = await served.connect()
        writer.write(GET)
        assert (await answer_of(reader))[0] == 200
        for byte in sent:
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        status, headers, body = await answer_of(reader)
        assert (status, headers["connection"]) == (408, "close")
        assert json.loads(body)["error"]["code"] == "request_timeout"
        assert await is_closed(reader)
        await until(lambda: served.site.num_gone == served.site.num_asked - 1)
        writer.close()


async def test_a_connection_that_never_asks_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "READ_TIMEOUT_S", 0.3)
    async with serving() as served:
        reader, writer = await served.connect()
        assert await is_closed(reader)
        assert served.refused == []
        writer.close()


async def test_a_slow_answer_is_no_slow_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "READ_TIMEOUT_S", 0.1)
    async with serving() as served:
        served.site.gate.clear()
        reader, writer = await served.connect()
        writer.write(POST + b"Content-Length: 2\r\n\r\nab")
        await asyncio.sleep(0.5)
        served.site.gate.set()
        assert (await answer_of(reader))[0] == 200
        writer.close()


async def test_connections_beyond_twice_the_requests_are_told_to_come_again() -> None:
    async with serving("--max_connections", "2") as served:
        kept = [await served.connect() for _ in range(4)]
        for reader, writer in kept:
            writer.write(GET)
            assert (await answer_of(reader))[0] == 200
        reader, writer = await served.connect()
        status, headers, body = await answer_of(reader)
        assert (status, headers["retry-after"]) == (503, "1")
        assert json.loads(body)["error"]["code"] == "service_unavailable"
        for _, one in (*kept, (reader, writer)):
            one.close()
