"""One whole system for all tests of this folder: two of each service, on the demo model where there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from services.common.model_files import DEMO_MODEL
from tests.fakes.stack import TWO_OF_EACH, Stack
from tests.fakes.tiny_model import make_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (DEMO_MODEL / "model.safetensors").is_file():
        return DEMO_MODEL
    path = tmp_path_factory.mktemp("tiny")
    make_model(path)
    return path


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[Stack]:
    flags = (*TWO_OF_EACH, "--model_name", "m")
    with Stack(tmp_path_factory.mktemp("stack"), model_dir, *flags) as running:
        yield running


@pytest.fixture(scope="session")
def client(stack: Stack) -> Iterator[OpenAI]:
    with OpenAI(base_url=stack.base_urls[0] + "/v1", api_key="-", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
async def async_client(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=stack.base_urls[1] + "/v1",
        api_key="-",
        max_retries=0,
        timeout=60,
        http_client=httpx.AsyncClient(verify=False),
    ) as made:
        yield made


@pytest.fixture
async def http(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stack.base_urls[0], timeout=60, verify=False) as made:
        yield made
