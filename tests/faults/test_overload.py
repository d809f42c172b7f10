"""More than the system can do: refused at once and by rule, shared fairly, ended in time, never kept without bound."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.common.model_files import DEMO_MODEL
from tests.e2e.metrics import scrape
from tests.fakes.probe import get
from tests.fakes.servers import die_with_parent, free_port
from tests.fakes.stack import REPO, Stack
from tests.fakes.waiting import until
from tests.faults.workload import new_client

pytestmark = pytest.mark.timeout(300)
MAX_QUEUE, MAX_RUNNING = 300, 16
KEYS = "key-many=many,key-one=one,key-heavy=heavy:3,key-holder=holder"
TIMEOUT_S = 3.0


@pytest.fixture(scope="module")
def small_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    flags = ("--max_queue", str(MAX_QUEUE), "--running_max_req_size", str(MAX_RUNNING), "--api_keys", KEYS)
    with Stack(tmp_path_factory.mktemp("small"), DEMO_MODEL, "--model_name", "m", *flags) as running:
        yield running


def body_of(num_tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": [30, 31], "max_tokens": num_tokens, "ignore_eos": True, **more}


class Tenant:
    """Sends requests under one key; ``ends`` and ``refused`` have the times at which they were answered."""

    def __init__(self, client: httpx.AsyncClient, url: str, name: str) -> None:
        self._client, self._url = client, url + "/v1/completions"
        self._headers = {"Authorization": f"Bearer key-{name}"}
        self.ends: list[float] = []
        self.refused: list[tuple[float, httpx.Response]] = []
        self.errors: list[str] = []

    async def ask(self, num_tokens: int, **more: Any) -> None:
        body = body_of(num_tokens, **more)
        response = await self._client.post(self._url, json=body, headers=self._headers)
        now = time.monotonic()
        if response.status_code == 200:
            self.ends.append(now)
        elif response.status_code == 429:
            self.refused.append((now, response))
        else:
            self.errors.append(response.text)


async def test_a_full_line_refuses_with_retry_after_and_shares_what_it_has_fairly(small_stack: Stack) -> None:
    """A tenant sends far more than fits; then another sends one request, and a weighty one a few."""
    num_sent = MAX_QUEUE + MAX_RUNNING + 60
    worker = next(row["address"] for row in small_stack.services().values() if row["service"] == "worker")
    names = ("many", "one", "heavy", "holder")
    async with new_client() as client:
        many, one, heavy, holder = (Tenant(client, small_stack.base_urls[0], name) for name in names)
        holding = [asyncio.create_task(holder.ask(1800)) for _ in range(MAX_RUNNING)]
        await until(lambda: scrape(worker)["shoal_worker_running_sequences"] == MAX_RUNNING, "a full batch")
        flood = [asyncio.create_task(many.ask(2)) for _ in range(num_sent)]
        await until(lambda: many.refused, "a refusal", 60)
        for task in holding:
            task.cancel()
        num_served_before = len(many.ends)
        await asyncio.gather(one.ask(2), *(heavy.ask(2) for _ in range(9)))
        num_served_after = len(many.ends)
        await asyncio.gather(*flood)
        await asyncio.gather(*holding, return_exceptions=True)
    print(f"{len(many.refused)} refused; {num_served_after - num_served_before} of many's served meanwhile")
    assert (many.errors, one.errors, heavy.errors) == ([], [], [])
    assert len(many.refused) + len(many.ends) == num_sent
    assert len(many.ends) >= MAX_QUEUE, "refused only when the line is full"
    for _, response in many.refused:
        assert response.json()["error"]["code"] == "queue_full"
        assert 1 <= int(response.headers["Retry-After"]) <= 60
    # At once, and not after a wait in the line: before most of what was taken had its turn.
    last_refusal = max(at for at, _ in many.refused)
    assert sum(end > last_refusal for end in many.ends) > len(many.ends) // 2
    # Those who came last, to a full line, were served before most of what waited there.
    assert (len(one.ends), len(heavy.ends)) == (1, 9)
    assert sum(end > max(one.ends + heavy.ends) for end in many.ends) > len(many.ends) // 2


async def test_what_is_more_urgent_overtakes_the_line(small_stack: Stack) -> None:
    """Of one tenant's requests, those of a lower priority value go first, though they came last."""
    router = next(row["address"] for row in small_stack.services().values() if row["service"] == "router")
    num_waiting = MAX_RUNNING
    async with new_client() as client:
        patient, urgent = (Tenant(client, small_stack.base_urls[0], "many") for _ in range(2))
        waiting = [asyncio.create_task(patient.ask(16, priority=5)) for _ in range(5 * MAX_RUNNING)]
        await until(lambda: scrape(router)["shoal_router_line_requests"] > num_waiting, "a line", 60)
        await asyncio.gather(*(urgent.ask(2, priority=-5) for _ in range(4)))
        await asyncio.gather(*waiting)
    assert (patient.errors, urgent.errors) == ([], [])
    assert sum(end > max(urgent.ends) for end in patient.ends) > num_waiting // 2


async def hold_the_worker(client: httpx.AsyncClient, url: str) -> list[asyncio.Task[httpx.Response]]:
    """Fills every place in the batch, for longer than TIMEOUT_S, and some of the line."""
    headers = {"Authorization": "Bearer key-many"}
    body = body_of(1800)
    return [
        asyncio.create_task(client.post(url + "/v1/completions", json=body, headers=headers))
        for _ in range(4 * MAX_RUNNING)
    ]


@pytest.fixture
def hasty_gateway(small_stack: Stack, tmp_path: Path) -> Iterator[str]:
    """One more gateway of the same system, whose requests end after TIMEOUT_S."""
    port = free_port()
    flags = ["--port", str(port), "--model_name", "m", "--timeout", str(TIMEOUT_S)]
    env = small_stack.env | small_stack.state["bus"] | {"SHOAL_INSTANCE_ID": "gateway-hasty"}
    command = [sys.executable, "-m", "services.gateway", "--model_dir", str(DEMO_MODEL), *flags]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=env, cwd=REPO, stdout=log, stderr=log, preexec_fn=die_with_parent
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            if get(url + "/ready")[0] == 200:
                break
            time.sleep(0.1)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


async def test_the_deployments_deadline_ends_a_request_wherever_it_is(
    small_stack: Stack, hasty_gateway: str
) -> None:
    await check_deadline(small_stack, hasty_gateway)


async def test_a_requests_own_deadline_ends_it_wherever_it_is(small_stack: Stack) -> None:
    await check_deadline(small_stack, small_stack.base_urls[0], timeout=TIMEOUT_S)


async def check_deadline(small_stack: Stack, url: str, **fields: Any) -> None:
    """A request to ``url`` with ``fields`` ends after TIMEOUT_S, in its answer's middle and in the line."""
    headers = {"Authorization": "Bearer key-one"}
    addresses = {row["service"]: row["address"] for row in small_stack.services().values()}

    def figure(service: str, name: str) -> float:
        return scrape(addresses[service])[name]

    async with new_client() as client:
        # In the middle of its answer: what came before the deadline came, then an error, then the end.
        lines = []
        async with client.stream(
            "POST", url + "/v1/completions", json=body_of(1900, stream=True, n=4, **fields), headers=headers
        ) as response:
            lines = [line[6:] async for line in response.aiter_lines() if line.startswith("data: ")]
        assert len(lines) > 4
        assert json.loads(lines[-2])["error"]["code"] == "deadline_exceeded"
        assert lines[-1] == "[DONE]"
        await until(lambda: figure("worker", "shoal_worker_used_blocks") == 0, "its blocks")
        await until(lambda: figure("detokenizer", "shoal_detokenizer_streams") == 0, "its streams")
        # In the line, behind a batch that is full: the router drops it too.
        holding = await hold_the_worker(client, small_stack.base_urls[0])
        await until(lambda: figure("router", "shoal_router_line_requests") > 0, "the line")
        response = await client.post(url + "/v1/completions", json=body_of(4, **fields), headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
        for task in holding:
            task.cancel()
        await asyncio.gather(*holding, return_exceptions=True)
    await until(lambda: figure("router", "shoal_router_line_requests") == 0, "the line to be empty")
    await until(lambda: figure("worker", "shoal_worker_used_blocks") == 0, "the blocks to be free")
