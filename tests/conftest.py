"""Fixtures for every test folder: real servers on free ports, and buses that are closed at the end."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from services.common.bus.nats import NatsBus
from tests.fakes.servers import NatsServer, RedisServer

ConnectBus = Callable[..., Awaitable[NatsBus]]


def pytest_collection() -> None:
    """Reading modules (torch and transformers are a million objects) makes no garbage to look for."""
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # Triton complains about what outlives the interpreter


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A NATS of the test's own; it may kill, pause and start it again."""
    server = NatsServer(tmp_path)
    with server:
        yield server


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own; it may kill, pause and start it again."""
    server = RedisServer(tmp_path)
    with server:
        yield server


@pytest.fixture
async def connect_bus(nats_server: NatsServer) -> AsyncIterator[ConnectBus]:
    """Makes connections to ``nats_server``: ``bus = await connect_bus("name")``."""
    made: list[NatsBus] = []

    async def connect(name: str = "test") -> NatsBus:
        bus = await NatsBus.connect(nats_server.settings, name)
        made.append(bus)
        return bus

    yield connect
    for bus in made:
        await bus.close()
