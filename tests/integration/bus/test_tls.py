"""NATS and Redis over TLS: whose certificate counts, and that nothing is said to who has none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from services.common.bus import BusError, Message
from services.common.bus.nats import NatsBus, NatsSettings
from services.kvstore.app import connect_redis
from tests.fakes.servers import NatsServer, RedisServer
from tests.fakes.tls import Authority, Certificate, needs_openssl

pytestmark = needs_openssl


class TlsNats(NatsServer):
    """NATS that wants TLS, and a certificate of its clients."""

    certificate: Certificate
    authority: Authority

    def command(self) -> list[str]:
        command = super().command()
        config = Path(command[-1])
        own, authority = self.certificate, self.authority
        config.write_text(
            config.read_text()
            + f'tls {{ cert_file: "{own.cert}", key_file: "{own.key}", ca_file: "{authority.cert}", verify: true }}\n'
        )
        return command


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


async def refusal_of(settings: NatsSettings) -> str:
    with pytest.raises(BusError) as caught:
        await NatsBus.connect(replace(settings, connect_timeout_s=1.0), "test")
    return caught.value.message


async def test_nats_over_tls_wants_the_right_certificates_of_both(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    server = TlsNats(tmp_path)
    server.authority, server.certificate = authority, authority.sign("server")
    own, foreign = authority.sign("client"), stranger.sign("client")
    with server:
        settings = replace(
            server.settings, tls_ca=str(authority.cert), tls_cert=str(own.cert), tls_key=str(own.key)
        )
        bus, heard = await NatsBus.connect(settings, "test"), asyncio.Event()

        async def hear(message: Message) -> None:
            heard.set()

        await bus.subscribe("news", hear)
        await bus.publish("news", b"over TLS")
        await asyncio.wait_for(heard.wait(), 10)
        await bus.close()
        assert "CERTIFICATE_VERIFY_FAILED" in await refusal_of(replace(settings, tls_ca=str(stranger.cert)))
        await refusal_of(replace(settings, tls_cert="", tls_key=""))
        await refusal_of(replace(settings, tls_cert=str(foreign.cert), tls_key=str(foreign.key)))


@pytest.mark.parametrize("by_url", [True, False], ids=["by its URL", "by an authority"])
async def test_who_wants_tls_says_no_password_to_a_nats_without(authority: Authority, by_url: bool) -> None:
    said = bytearray()

    async def pose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'INFO {"server_id":"x","version":"2.10.0","max_payload":1048576,"auth_required":true}\r\n'
        )
        said.extend(await reader.read(4096))
        writer.close()

    async with await asyncio.start_server(pose, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        scheme, authority_file = ("tls", "") if by_url else ("nats", str(authority.cert))
        url = f"{scheme}://127.0.0.1:{port}"
        reason = await refusal_of(NatsSettings(url, user="shoal", password="quokka", tls_ca=authority_file))
    assert "TLS is wanted" in reason
    assert bytes(said) == b""


@asynccontextmanager
async def tls_before(port: int, certificate: Certificate, clients: Authority) -> AsyncIterator[int]:
    """Ends TLS, with a certificate of each client, before a server that has none; gives its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=clients.cert)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate.cert, certificate.key)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def test_redis_over_tls_wants_the_right_certificates_of_both(
    redis_server: RedisServer, authority: Authority, stranger: Authority
) -> None:
    """PyPI's redis-server has no TLS of its own, so something before it has."""
    own = authority.sign("redis-client")
    async with tls_before(redis_server.port, authority.sign("redis"), authority) as port:
        url = redis_server.url.replace("redis://", "rediss://").replace(f":{redis_server.port}", f":{port}")
        client_files = f"&ssl_certfile={own.cert}&ssl_keyfile={own.key}"
        client = connect_redis(f"{url}?ssl_ca_certs={authority.cert}{client_files}")
        assert await client.ping()
        await client.aclose()
        for query in (f"ssl_ca_certs={stranger.cert}{client_files}", f"ssl_ca_certs={authority.cert}"):
            refused = connect_redis(f"{url}?{query}")
            with pytest.raises((RedisConnectionError, ssl.SSLError, OSError)):
                await refused.ping()
            await refused.aclose()
