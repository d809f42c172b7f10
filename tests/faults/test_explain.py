"""Whoever is paged sees in one timeline what became of a stream: attempts, replays, stalls."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from tests.e2e.metrics import scrape
from tests.fakes.stack import Stack
from tests.fakes.waiting import until
from tests.faults.strikes import KILL, PAUSE, wait_until_whole
from tests.faults.workload import Outcome, StreamReader, new_client

BODY: dict[str, Any] = {
    "model": "m",
    "prompt": "Once upon a time",
    "max_tokens": 1900,
    "ignore_eos": True,
    "stream": True,
    "return_token_ids": True,
}
SIGCONT = signal.SIGCONT
Events = list[dict[str, Any]]
Rows = dict[str, dict[str, Any]]


def fields_of(events: Events, name: str) -> list[dict[str, str]]:
    return [event["fields"] for event in events if event["event"] == name]


def has(events: Events, name: str) -> bool:
    return bool(fields_of(events, name))


async def busy(rows: Rows, service: str, figure: str) -> str:
    """The one of a service's copies that has the stream. It is looked up at once: streams end."""
    addresses = {name: row["address"] for name, row in rows.items() if row["service"] == service}
    found: list[str] = []

    def is_found() -> bool:
        found[:] = [name for name, address in addresses.items() if scrape(address)[figure] > 0]
        return len(found) == 1

    await until(is_found, f"one {service} to have the stream")
    return found[0]


@pytest.mark.timeout(240)
async def test_a_trace_shows_the_attempt_the_stall_and_the_replay(faulty_stack: Stack) -> None:
    stack, outcome = faulty_stack, Outcome()
    rows = await asyncio.to_thread(stack.services)
    async with new_client() as client:
        reader = StreamReader(outcome, 0.0)
        reading = asyncio.create_task(
            reader.read(client, "POST", stack.base_urls[0] + "/v1/completions", json=BODY)
        )
        await until(lambda: len(outcome.ids.get(0, [])) > 4, "tokens")
        worker = await busy(rows, "worker", "shoal_worker_running_sequences")
        pid = stack.signal(worker, PAUSE)
        try:
            await until(lambda: outcome.worst_stall_s > 1.0, "the stream to go on elsewhere")
        finally:
            os.kill(pid, SIGCONT)
        detokenizer = await busy(rows, "detokenizer", "shoal_detokenizer_streams")
        os.kill(stack.pid(detokenizer), KILL)
        name = outcome.stream_path.rpartition("/")[2]
        found = await asyncio.to_thread(stack.trace, name, lambda found: has(found, "replay"))
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await wait_until_whole(stack)
    assert [fields["attempt"] for fields in fields_of(found, "submit")][:2] == ["1", "2"]
    stalled, goes_on = fields_of(found, "stalled")[0], fields_of(found, "goes on")[0]
    assert (stalled["choice"], stalled["worker"]) == ("0", worker)
    assert float(goes_on["waited_s"]) >= float(stalled["waited_s"]) >= 1.0
    shown = (await asyncio.to_thread(stack.cli, "trace", name)).stdout
    assert all(word in shown for word in ("stalled", "goes on", "replay", "attempt=2"))
