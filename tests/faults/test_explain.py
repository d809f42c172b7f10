"""Whoever is paged sees in one timeline what became of a stream: attempts, replays, stalls."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

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


def fields_of(events: Events, name: str) -> list[dict[str, str]]:
    return [event["fields"] for event in events if event["event"] == name]


def has(events: Events, name: str) -> bool:
    return bool(fields_of(events, name))


@pytest.mark.timeout(240)
async def test_a_trace_shows_the_attempt_the_stall_and_the_replay(faulty_stack: Stack) -> None:
    stack, outcome = faulty_stack, Outcome()

    def ids() -> int:
        return len(outcome.ids.get(0, []))

    async with new_client() as client:
        reader = StreamReader(outcome, 0.0)
        reading = asyncio.create_task(
            reader.read(client, "POST", stack.base_urls[0] + "/v1/completions", json=BODY)
        )
        await until(lambda: ids() > 4, "tokens")
        name = outcome.stream_path.rpartition("/")[2]
        begun = await asyncio.to_thread(stack.trace, name, lambda found: has(found, "first token"))
        (worker,) = {event["who"] for event in begun if event["who"].startswith("worker")}
        pid = stack.signal(worker, PAUSE)
        try:
            before = ids()
            await asyncio.to_thread(stack.trace, name, lambda found: has(found, "goes on"))
        finally:
            os.kill(pid, SIGCONT)
        assert ids() > before
        detokenizer = fields_of(begun, "submit")[0]["detokenizer"]
        os.kill(stack.pid(detokenizer), KILL)
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
