"""How soon what a client held is free after it hangs up: ``python -m bench.cancel [--repeat 20] [--json FILE]``.

Three clients in turn, on the demo model: one in the line (the worker's batch is full), one in the prefill of a long
prompt in small chunks, one in decode. From the moment its connection is closed to the first heartbeat in which the
router's line, or the worker's batch and all its blocks, are free again. Heartbeats come each 0.4 s, and early when a
worker's load has changed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx

from bench.conditions import conditions, write
from services.cli import fleet
from services.common.bus import Message
from services.common.messages.codec import decode
from services.common.messages.events import Heartbeat
from services.common.model_files import DEMO_MODEL
from tests.fakes.stack import Stack

FLAGS = ("--threads", "1", "--running_max_req_size", "2", "--chunked_prefill_size", "32")
OTHERS = 8  # that fill the worker, where somebody is to wait in the line
BEAT_S = 0.4
PROMPT_LEN = {"line": 8, "prefill": 3000, "decode": 8}
PATIENCE_S = 30.0


class Beats:
    """The last beat of each service, and a wait for one that satisfies a condition."""

    def __init__(self) -> None:
        self._last: dict[str, Heartbeat] = {}
        self._changed = asyncio.Condition()

    async def on_message(self, message: Message) -> None:
        async with self._changed:
            beat = decode(Heartbeat, message.data)
            self._last[beat.service] = beat
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(condition)

    def forget(self) -> None:
        """What is waited for next must be said from now on."""
        self._last.clear()

    def line(self) -> float | None:
        """Requests in the router's line."""
        beat = self._last.get("router")
        return None if beat is None else beat.load["waiting"]

    def load(self) -> tuple[int, bool] | None:
        """Sequences in the worker's batch, and whether all its blocks are free."""
        beat = self._last.get("worker")
        if beat is None or beat.worker is None:
            return None
        return beat.worker.running, beat.worker.free_blocks == beat.worker.total_blocks


class Held:
    """A request whose client can hang up."""

    def __init__(self, url: str, model: str, prompt_len: int, rng: random.Random) -> None:
        prompt = [rng.randrange(20, 8000) for _ in range(prompt_len)]
        self._body = {"model": model, "prompt": prompt, "max_tokens": 900, "ignore_eos": True, "stream": True}
        self._url, self.has_begun = url, asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with (
            httpx.AsyncClient(timeout=PATIENCE_S) as client,
            client.stream("POST", self._url + "/v1/completions", json=self._body) as response,
        ):
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    self.has_begun.set()

    async def hang_up(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


async def measure(stage: str, stack: Stack, beats: Beats, rng: random.Random) -> float:
    """Seconds from hanging up to the first beat that says so."""

    def new(length: int) -> Held:
        return Held(stack.base_urls[0], stack.model, length, rng)

    def is_free() -> bool:
        return beats.load() == (0, True)

    async with AsyncExitStack() as leaving:
        if stage == "line":
            for _ in range(OTHERS):
                leaving.push_async_callback(new(8).hang_up)
            await asyncio.sleep(3 * BEAT_S)  # two run, some wait with the worker, the rest in the line
            beats.forget()
            await beats.until(lambda: (beats.line() or 0) > 0)
            line = beats.line() or 0
        held = new(PROMPT_LEN[stage])
        if stage == "line":
            await beats.until(lambda: beats.line() == line + 1)
        elif stage == "prefill":
            await beats.until(lambda: beats.load() == (1, False))
            assert not held.has_begun.is_set(), "its prompt was too short"
        else:
            await asyncio.wait_for(held.has_begun.wait(), PATIENCE_S)
        await asyncio.sleep(BEAT_S * rng.random())  # at any phase of the beats
        assert stage == "decode" or not held.has_begun.is_set(), "it came out of its stage"
        await held.hang_up()
        hung_up_at = time.perf_counter()
        beats.forget()
        await beats.until(is_free if stage != "line" else lambda: beats.line() == line)
        seconds = time.perf_counter() - hung_up_at
    await beats.until(is_free)
    return seconds


async def run(stack: Stack, repeat: int) -> dict[str, list[float]]:
    bus, subjects = await fleet.connect(stack.state["bus"], "bench")
    beats, rng = Beats(), random.Random(7)
    found: dict[str, list[float]] = {stage: [] for stage in PROMPT_LEN}
    try:
        await bus.subscribe(subjects.heartbeats(), beats.on_message)
        for _, stage in itertools.product(range(repeat), found):
            found[stage].append(await measure(stage, stack, beats, rng))
    finally:
        await bus.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), DEMO_MODEL, *FLAGS) as stack:
        found = asyncio.run(run(stack, arguments.repeat))
    figures: dict[str, Any] = {
        stage: {"p50_s": round(statistics.median(values), 3), "max_s": round(max(values), 3)}
        for stage, values in found.items()
    }
    for stage, figure in figures.items():
        print(
            f"{stage}: free after {figure['p50_s']} s (p50), {figure['max_s']} s (max) of {arguments.repeat}"
        )
    if arguments.json:
        write(
            arguments.json,
            conditions("python -m bench.cancel") | {"load average before": load, "flags": FLAGS} | figures,
        )


if __name__ == "__main__":
    main()
