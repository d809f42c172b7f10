"""The HTTP surface under generated requests, and the gateway's handlers under bytes that are no messages.

SHOAL_FUZZ_CASES sets the number of HTTP cases; the run in CI is short, a release runs 10,000.
"""

from __future__ import annotations

import asyncio
import os
import random
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from services.common.messages.codec import encode
from services.common.messages.control import Bounced, Holdings
from services.common.messages.events import Heartbeat
from services.common.messages.frames import RowLogprobs, TextFrame
from tests.fakes.backend import FakeBackend
from tests.fakes.gateway import MODEL, RunningGateway
from tests.fakes.waiting import until

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis")

NUM_CASES = int(os.environ.get("SHOAL_FUZZ_CASES", "160"))
MAX_SECONDS = 10.0


def check_all(address: str, rng: random.Random) -> dict[int, int]:
    """Sends generated requests to every operation; returns how often each status came."""
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    statuses: dict[int, int] = {}

    def check(case: Any) -> None:
        if isinstance(case.body, dict) and rng.random() < 0.8:
            case.body["model"] = MODEL
            case.body.pop("n", None) if rng.random() < 0.5 else None
        answer = case.call(timeout=MAX_SECONDS)
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        where = f"{case.method} {case.path} {case.body!r:.500}: {answer.text:.300}"
        assert answer.status_code != 500, where
        if answer.status_code >= 400 and case.path != "/ready":
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}, where

    posts = [operation for operation in operations if operation.method == "post"]
    for operation in operations:
        count = NUM_CASES // len(posts) if operation in posts else 10
        run = settings(
            max_examples=count,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )(given(case=operation.as_strategy())(check))
        run()
    return statuses


@pytest.mark.timeout(max(120, NUM_CASES // 5))
@pytest.mark.filterwarnings("ignore")
async def test_no_request_that_the_description_allows_or_nearly_allows_breaks_the_gateway(
    gateway: RunningGateway,
) -> None:
    statuses = await asyncio.to_thread(check_all, gateway.address, random.Random(7))
    assert statuses[200] > 5, statuses
    assert statuses[400] > 5, statuses
    await until(lambda: gateway.app.gateway.client.num_requests == 0)


def valid_messages(backend: FakeBackend) -> list[tuple[str, bytes]]:
    subjects = backend.subjects
    frame = TextFrame(
        "w",
        "d",
        ["a:0", "b:7", ":", "c:x"],
        [1, 1, 1, 1],
        [0, 0, 0, 0],
        [1, 0, 1, 0],
        [1, 2],
        ["x"] * 4,
        [0] * 4,
        [0] * 4,
        [0] * 4,
        {0: 5},
        {1: "e"},
        {0: RowLogprobs([0.5], 1, [2], [0.25])},
    )
    return [
        (subjects.gateway_frames("gateway-1"), encode(frame)),
        (
            subjects.gateway_holdings("gateway-1"),
            encode(Holdings("worker", "w", ["a"], [1], ["a:0"], [1], [4], [0])),
        ),
        (subjects.gateway_bounced("gateway-1"), encode(Bounced("w", ["a"], [1], "drain"))),
        (subjects.heartbeat("worker", "w"), encode(Heartbeat("worker", "w", 1, "ready", 0.3, "other"))),
    ]


async def test_bytes_that_are_no_messages_change_nothing(
    gateway: RunningGateway, backend: FakeBackend
) -> None:
    rng = random.Random(3)
    for subject, data in valid_messages(backend):
        for _ in range(150):
            mutated = bytearray(data)
            for _ in range(rng.randint(1, 6)):
                mutated[rng.randrange(len(mutated))] = rng.randrange(256)
            cut = rng.randrange(len(mutated)) if rng.random() < 0.2 else len(mutated)
            await backend.bus.publish(subject, bytes(mutated[:cut]))
            await backend.bus.publish(subject, rng.randbytes(rng.randint(0, 40)))
    async with gateway.http() as http:
        answer = await http.post("/v1/completions", json={"model": MODEL, "prompt": "x", "max_tokens": 3})
    assert answer.status_code == 200
    assert gateway.app.gateway.client.num_requests == 0
