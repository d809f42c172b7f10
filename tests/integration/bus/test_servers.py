import os

import pytest
import redis
from redis.exceptions import AuthenticationError, ConnectionError

from services.common.bus import BusError, NoResponders
from services.common.bus.nats import NatsBus, NatsSettings
from tests.fakes.waiting import until


async def test_clients_find_a_killed_nats_again_on_its_port(nats_server, connect_bus):
    bus = await connect_bus()
    nats_server.kill()
    await until(lambda: not bus.is_connected)
    nats_server.start()
    await until(lambda: bus.is_connected)
    with pytest.raises(NoResponders):
        await bus.request("nobody", b"", 1.0)


async def test_nats_wants_the_password(nats_server):
    with pytest.raises(BusError, match="cannot be reached"):
        await NatsBus.connect(NatsSettings(nats_server.url, connect_timeout_s=0.5), "stranger")


def test_redis_wants_the_password_and_is_empty_after_a_kill(redis_server):
    with redis.Redis(port=redis_server.port) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()
    with redis.Redis.from_url(redis_server.url, retry=None) as client:
        client.set("key", "value")
        redis_server.kill()
        with pytest.raises(ConnectionError):
            client.get("key")
        redis_server.start()
        assert client.get("key") is None


def test_a_stopped_server_leaves_no_process(nats_server):
    pid = nats_server.process.pid
    nats_server.pause()
    nats_server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
