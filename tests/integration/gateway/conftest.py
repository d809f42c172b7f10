"""A gateway over real NATS with a scripted backend, ready for requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.common.bus.nats import NatsBus
from services.common.messages.request import ChoiceState, GenerateRequest
from services.common.subjects import Subjects
from tests.fakes.backend import FakeBackend, Script, words
from tests.fakes.gateway import MODEL, RunningGateway, running_gateway
from tests.fakes.processes import ServiceProcess, running_service
from tests.fakes.servers import NatsServer, RedisServer
from tests.fakes.tiny_model import make_tokenizer
from tests.fakes.waiting import until

from .kept import LONG

Connect = Callable[..., Awaitable[NatsBus]]
TEXT = "The fox said: Grüße, 日本! and left"


def default_script(request: GenerateRequest, choice: ChoiceState) -> Script:
    return words(TEXT, cached_tokens=3)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("model") / MODEL)


@pytest.fixture
async def backend(connect_bus: Connect) -> AsyncIterator[FakeBackend]:
    fake = FakeBackend(await connect_bus("backend"), Subjects(), MODEL, default_script)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def gateway(
    connect_bus: Connect, model_dir: Path, backend: FakeBackend
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(await connect_bus("gateway"), model_dir) as running:
        await until_ready(running)
        backend.submitted.clear()
        yield running


async def until_ready(running: RunningGateway) -> None:
    await until(lambda: not running.runtime.not_ready(), "the gateway to be ready")


@pytest.fixture
def kvstore_flags(nats_server: NatsServer, redis_server: RedisServer) -> list[str]:
    return [*nats_server.flags, "--redis_url", redis_server.url, "--stream_retention", "20"]


@pytest.fixture
async def kvstore(kvstore_flags: list[str]) -> AsyncIterator[ServiceProcess]:
    """A process that keeps logs."""
    with running_service("kvstore", kvstore_flags) as process:
        await process.until_ready()
        yield process


@pytest.fixture
async def gateways(
    connect_bus: Connect, kvstore: ServiceProcess, model_dir: Path, backend: FakeBackend
) -> AsyncIterator[list[RunningGateway]]:
    """Two that keep every stream, of 40 words that take 0.4 s."""
    backend.script = lambda request, choice: words(LONG)
    backend.token_s = 0.01
    options = ["--stream_retention", "20", "--api_keys", "k1=anna,k2=ben"]
    async with AsyncExitStack() as stack:
        made = []
        for name in ("gateway-1", "gateway-2"):
            running = running_gateway(await connect_bus(name), model_dir, *options, instance_id=name)
            made.append(await stack.enter_async_context(running))
            await until_ready(made[-1])
        yield made
