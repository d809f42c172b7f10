"""A request asks for its stream to be kept, in a deployment that keeps none, and its gateway is killed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.common.model_files import DEMO_MODEL
from tests.fakes.stack import Stack
from tests.fakes.waiting import until
from tests.faults.strikes import KILL
from tests.faults.workload import Outcome, StreamReader, differences, new_client

pytestmark = pytest.mark.timeout(180)
PATH = "/v1/completions"
BODY: dict[str, Any] = {
    "model": "m",
    "prompt": "Once upon a time there was a fox who said",
    "max_tokens": 192,
    "ignore_eos": True,
    "n": 2,
    "temperature": 0.8,
    "seed": 5,
    "stream": True,
    "stream_options": {"include_usage": True},
    "return_token_ids": True,
}


@pytest.fixture(scope="module")
def two_gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    flags = ("--model_name", "m", "--gateways", "2")
    with Stack(tmp_path_factory.mktemp("kept"), DEMO_MODEL, *flags) as running:
        yield running


def new_reader() -> StreamReader:
    return StreamReader(Outcome(), asyncio.get_running_loop().time())


async def test_a_stream_that_asked_to_be_kept_outlives_its_gateway(two_gateways: Stack) -> None:
    first, second = two_gateways.base_urls
    async with new_client() as client:
        calm = new_reader()
        await calm.read(client, "POST", second + PATH, json=BODY)
        pid = two_gateways.pid("gateway-1")  # beforehand: looking for it takes a while
        kept, other = new_reader(), new_reader()
        reading = [
            asyncio.create_task(reader.read(client, "POST", first + PATH, json=BODY | more))
            for reader, more in ((kept, {"stream_retention": 60}), (other, {}))
        ]
        await until(lambda: all(len(r.outcome.ids.get(0, [])) > 8 for r in (kept, other)), "tokens", 60)
        os.kill(pid, KILL)
        for broken in await asyncio.gather(*reading, return_exceptions=True):
            assert isinstance(broken, httpx.HTTPError)
        assert other.outcome.stream_path == "", "nobody asked for it to be kept"
        assert len(kept.outcome.ids[0]) < BODY["max_tokens"]
        headers = {"Last-Event-ID": kept.outcome.last_event_id}
        await kept.read(client, "GET", second + kept.outcome.stream_path, headers=headers)
    assert differences([kept.outcome], [calm.outcome]) == []
    assert {i: len(ids) for i, ids in kept.outcome.ids.items()} == {0: 192, 1: 192}
