"""kvstores in the test's own process, on real NATS and Redis."""

import pytest
import redis.asyncio

from services.kvstore.app import KvstoreApp
from tests.fakes.contexts import make_context, start_app


@pytest.fixture
async def start_kvstore(connect_bus, redis_server):
    """Starts kvstores on the test's Redis; all are stopped at the end."""
    started = []

    async def start(name="kvstore", *flags):
        context = make_context(
            "kvstore", await connect_bus(name), name, ["--redis_url", redis_server.url, *flags]
        )
        started.append(await start_app(context, KvstoreApp(context)))
        return started[-1]

    yield start
    for runtime in started:
        await runtime.stop()


@pytest.fixture
async def client(redis_server):
    """A test's own eyes on Redis."""
    async with redis.asyncio.Redis.from_url(redis_server.url, socket_timeout=1) as client:
        yield client
