"""A gateway over real NATS with a scripted backend, ready for requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from services.common.bus.nats import NatsBus
from services.common.messages.request import ChoiceState, GenerateRequest
from services.common.subjects import Subjects
from tests.fakes.backend import FakeBackend, Script, words
from tests.fakes.gateway import MODEL, RunningGateway, running_gateway
from tests.fakes.tiny_model import make_tokenizer
from tests.fakes.waiting import until

TEXT = "The fox said: Grüße, 日本! and left"


def default_script(request: GenerateRequest, choice: ChoiceState) -> Script:
    return words(TEXT, cached_tokens=3)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("model") / MODEL)


@pytest.fixture
async def backend(connect_bus: Callable[..., Awaitable[NatsBus]]) -> AsyncIterator[FakeBackend]:
    fake = FakeBackend(await connect_bus("backend"), Subjects(), MODEL, default_script)
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def gateway(
    connect_bus: Callable[..., Awaitable[NatsBus]], model_dir: Path, backend: FakeBackend
) -> AsyncIterator[RunningGateway]:
    async with running_gateway(await connect_bus("gateway"), model_dir) as running:
        await until_ready(running)
        backend.submitted.clear()
        yield running


async def until_ready(running: RunningGateway) -> None:
    await until(lambda: not running.runtime.not_ready(), "the gateway to be ready", 5)
