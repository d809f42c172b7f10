"""2,000 requests whose clients hang up at random moments leave no block, no place in a line and no stream behind."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.common.model_files import DEMO_MODEL
from tests.e2e.metrics import scrape
from tests.fakes.stack import TWO_OF_EACH, Stack
from tests.fakes.waiting import until
from tests.faults.workload import new_client

NUM_REQUESTS, NUM_CLIENTS = 2000, 64


@pytest.fixture(scope="module")
def narrow_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Its workers take few requests at once, so that others are in the line when their client leaves."""
    flags = (*TWO_OF_EACH, "--model_name", "m")
    with Stack(
        tmp_path_factory.mktemp("leak"), DEMO_MODEL, *flags, "--running_max_req_size", "12"
    ) as running:
        yield running


async def ask_and_leave(
    client: httpx.AsyncClient, url: str, body: dict[str, Any], stay_s: float | None, num_events: int
) -> str:
    """Leaves after some seconds or events. Where the request was then: "refused", "unanswered", "begun" or "done"."""
    where = "unanswered"
    try:
        async with (
            asyncio.timeout(stay_s),
            client.stream("POST", url + "/v1/completions", json=body) as response,
        ):
            if response.status_code != 200:
                return "refused"
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    where, num_events = "begun", num_events - 1
                    if not num_events:
                        return where
            return "done"
    except TimeoutError:
        return where


def new_body(rng: random.Random) -> dict[str, Any]:
    return {
        "model": "m",
        "prompt": [rng.randrange(20, 200) for _ in range(rng.choice((3, 20, 80)))],
        "max_tokens": rng.choice((50, 400)),
        "n": rng.choice((1, 1, 1, 2)),
        "stream": True,
        "ignore_eos": True,
    }


async def cancel_many(base_urls: list[str]) -> Counter[str]:
    rng, found = random.Random(11), Counter[str]()
    left = itertools.count()

    async def one_client() -> None:
        while found["unanswered"] + found["begun"] < NUM_REQUESTS:  # "done" ones were not cancelled
            i = next(left)
            is_early, url, body = rng.random() < 0.6, base_urls[i % len(base_urls)], new_body(rng)
            if is_early:
                body["stream"] = rng.random() < 0.5
            stay_s = rng.choice((0.03, 0.5)) * rng.random() if is_early else None
            found[await ask_and_leave(client, url, body, stay_s, rng.randint(1, 4))] += 1

    async with new_client() as client:
        await asyncio.gather(*(one_client() for _ in range(NUM_CLIENTS)))
    return found


@pytest.mark.timeout(240)
async def test_2000_cancelled_requests_leave_nothing_behind(narrow_stack: Stack) -> None:
    addresses: dict[str, list[str]] = {}
    for row in narrow_stack.services().values():
        addresses.setdefault(row["service"], []).append(row["address"])

    def all_is_free() -> bool:
        rows = [row for row in narrow_stack.services().values() if row["service"] == "worker"]
        return all(row["load"]["free_blocks"] == row["load"]["total_blocks"] for row in rows)

    await until(all_is_free, "the canaries of the start to end")

    def of(service: str, figure: str) -> list[float]:
        return [scrape(address)[figure] for address in addresses[service]]

    waited = 0.0

    async def watch_the_line() -> None:
        nonlocal waited
        while True:
            figures = await asyncio.to_thread(of, "router", "shoal_router_line_requests")
            waited = max(waited, sum(figures))
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch_the_line())
    found = await cancel_many(narrow_stack.base_urls)
    watching.cancel()
    print(dict(found), f"at most {waited:.0f} in the line")
    assert found["refused"] == 0
    assert min(found["unanswered"], found["begun"]) > NUM_REQUESTS // 20, "they left early and late"
    assert waited > 0, "some waited in the line"

    def held() -> list[float]:
        """Gauges are as of their service's last tick."""
        return [
            *of("worker", "shoal_worker_used_blocks"),
            *of("worker", "shoal_worker_running_sequences"),
            *of("worker", "shoal_worker_waiting_sequences"),
            *of("router", "shoal_router_line_requests"),
            *of("gateway", "vllm:num_requests_running"),
            *of("detokenizer", "shoal_detokenizer_streams"),
        ]

    await until(lambda: held() == [0.0] * 12, "everything to be given back")

    await until(all_is_free, "all blocks to be free")
