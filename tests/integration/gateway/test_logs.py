"""What --log_requests writes: every prompt and every output, and no more of each than --max_log_len."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from services.common.bus.nats import NatsBus
from tests.fakes.backend import FakeBackend
from tests.fakes.gateway import MODEL, running_gateway
from tests.integration.gateway.conftest import TEXT, until_ready

Connect = Callable[..., Awaitable[NatsBus]]


def shown(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [vars(record)["text"] for record in caplog.records if record.getMessage() == event]


@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_and_outputs_are_logged_where_asked_for(
    connect_bus: Connect,
    model_dir: Path,
    backend: FakeBackend,
    caplog: pytest.LogCaptureFixture,
    stream: bool,
) -> None:
    caplog.set_level(logging.INFO)
    options = ["--log_requests", "--max_log_len", "20"]
    async with running_gateway(await connect_bus("gateway"), model_dir, *options) as running:
        await until_ready(running)
        async with running.http() as http:
            body = {
                "model": MODEL,
                "prompt": ["Once", "upon " * 9],
                "n": 2,
                "max_tokens": 50,
                "stream": stream,
            }
            answer = await http.post("/v1/completions", json=body)
    assert answer.status_code == 200
    assert shown(caplog, "prompt") == ["Once", "upon " * 4]
    assert shown(caplog, "output") == [TEXT[:20]] * 4


async def test_nothing_of_it_is_logged_by_default(
    connect_bus: Connect, model_dir: Path, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running_gateway(await connect_bus("gateway"), model_dir) as running:
        await until_ready(running)
        async with running.http() as http:
            await http.post("/v1/completions", json={"model": MODEL, "prompt": "a unicorn", "max_tokens": 50})
    everything = "".join(str(vars(record)) for record in caplog.records)
    assert "generation done" in everything
    assert "unicorn" not in everything
    assert "fox" not in everything
