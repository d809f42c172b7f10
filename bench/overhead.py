"""What surviving costs while nothing fails: ``python -m bench.overhead [--minutes 20]``, on a quiet machine.

Three ways serve the same load in turn, in every order, round after round: as by default; on a second system whose
heartbeats and Holdings come nearly never; and as by default with every stream kept (``stream_retention`` in the
request, so the processes are the same ones). Each round gives one ratio, so what the machine does to both ways of a
round drops out. Two processes of the same program differ too, by where their memory lies, for as long as they live:
so the two systems are started anew, in turn first and second, for every block of a few rounds. The median of all
rounds' ratios is given with its 95% interval, by bootstrap over blocks. CPU time says more than throughput, and what
is added outside of the engine more than the sum: the engine takes most of the time, does the same in all ways, and
varies most.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from services.common.model_files import DEMO_MODEL
from tests.fakes.stack import Stack

DEFAULT, NO_BEATS, KEPT = "default", "beats nearly never", "streams kept"
COMPARISONS = ((DEFAULT, NO_BEATS), (KEPT, DEFAULT))
AIM = 1.02
CLIENTS = 16
PROMPT = "Once upon a time there was a fox who"
ENGINE = "engine"
# One thread for the model: idle ones of a pool spin, and their time would be counted.
FLAGS = ("--threads", "1")
SYSTEMS = {DEFAULT: (), NO_BEATS: ("--heartbeat_interval", "20", "--lease", "80")}
ROUNDS = 3  # of a block
MIN_BLOCKS = 6  # of fewer, all lie on one side of the true median in over one of twenty cases

Block = dict[str, list["Sample"]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One way in one round. CPU is in milliseconds per token, by service."""

    tokens_per_s: float
    cpu: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.cpu.values())

    @property
    def around(self) -> float:
        """Of everything but the engine."""
        return self.total - self.cpu.get(ENGINE, 0.0)


def median_interval(
    blocks: Sequence[Sequence[float]], seed: int = 1, resamples: int = 4000
) -> tuple[float, float, float]:
    """The median of all values and its 95% interval, by percentile bootstrap over the blocks."""
    rng = random.Random(seed)

    def median(chosen: Sequence[Sequence[float]]) -> float:
        return statistics.median(itertools.chain.from_iterable(chosen))

    medians = sorted(median(rng.choices(blocks, k=len(blocks))) for _ in range(resamples))
    cut = resamples // 40
    return median(blocks), medians[cut], medians[-cut - 1]


def describe(blocks: Sequence[Sequence[float]], aim: float) -> dict[str, Any]:
    """A ratio over the rounds, and what it says about the aim of staying under ``aim``."""
    middle, low, high = median_interval(blocks)
    values = list(itertools.chain.from_iterable(blocks))
    if len(blocks) < MIN_BLOCKS:
        said = "undecided"
    else:
        said = "shown" if high < aim else "missed" if low > aim else "undecided"
    return {
        "ratio": round(middle, 4),
        "95% interval": [round(low, 4), round(high, 4)],
        "rounds' spread": [round(min(values), 3), round(max(values), 3)],
        f"under {aim:g}": said,
    }


def compare(blocks: Sequence[Block], more: str, less: str) -> dict[str, Any]:
    """The cost of one way against another, from their samples of the same rounds."""

    def ratios(of: Callable[[Sample, Sample], float]) -> list[list[float]]:
        return [[of(a, b) for a, b in zip(block[more], block[less], strict=True)] for block in blocks]

    return {
        "cpu": describe(ratios(lambda a, b: a.total / b.total), AIM),
        "cpu, if the engine's were the same": describe(
            ratios(lambda a, b: 1 + (a.around - b.around) / b.total), AIM
        ),
        "time per token": describe(ratios(lambda a, b: b.tokens_per_s / a.tokens_per_s), AIM),
    }


def breakdown(samples: Sequence[Sample]) -> dict[str, float]:
    """CPU microseconds per token of each service: means, since clocks of 10 ms are read."""
    names = sorted({name for sample in samples for name in sample.cpu})
    return {name: round(1000 * statistics.fmean(s.cpu.get(name, 0.0) for s in samples), 1) for name in names}


def processes_by_service(stack: Stack) -> list[tuple[str, psutil.Process]]:
    """All that serve; `up`, which only watches, is not among them."""
    found = []
    for process in stack.processes():
        name = process.name()
        if "nats-server" in name or "redis-server" in name:
            service = name.split("-")[0]
        elif any("rank_main" in word for word in process.cmdline()):
            service = ENGINE
        else:
            service = process.environ().get("SHOAL_INSTANCE_ID", "other").rpartition("-")[0] or "other"
        found.append((service, process))
    return found


class System:
    """A running system and the processes whose time is counted."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._processes = stack, processes_by_service(stack)

    def cpu_seconds(self) -> Counter[str]:
        spent: Counter[str] = Counter()
        for service, process in self._processes:
            times = process.cpu_times()
            spent[service] += times.user + times.system
        return spent

    def measure(self, tokens: int, **fields: Any) -> Sample:
        """Sixteen streams at once, from the first byte to the last."""
        body = {"model": self._stack.model, "prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True}
        body |= {"temperature": 0, "stream": True, **fields}
        port = int(self._stack.base_urls[0].rpartition(":")[2])
        before, began = self.cpu_seconds(), time.perf_counter()
        events = asyncio.run(read_all(port, json.dumps(body).encode()))
        seconds, spent = time.perf_counter() - began, self.cpu_seconds() - before
        assert events > CLIENTS, "nothing was streamed"
        made = CLIENTS * tokens
        return Sample(made / seconds, {name: value * 1000 / made for name, value in spent.items()})


async def read_all(port: int, body: bytes) -> int:
    return sum(await asyncio.gather(*(read_stream(port, body) for _ in range(CLIENTS))))


async def read_stream(port: int, body: bytes) -> int:
    """The number of events of one answer, by a reader that takes next to no time from the services."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: "
    writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
    events, end = 0, b""
    while data := await reader.read(1 << 16):
        events += data.count(b"\ndata: ")
        end = (end + data)[-64:]
    writer.close()
    assert b"data: [DONE]" in end, end
    return events


def run_block(names: Sequence[str], orders: Iterable[Sequence[str]], tokens: int) -> Block:
    """Rounds in the given orders, on systems started for them in the order of their names; one more warms up."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        systems: dict[str, System] = {}
        for name in names:
            (directory := Path(folder) / str(len(systems))).mkdir()
            systems[name] = System(
                running.enter_context(Stack(directory, DEMO_MODEL, *FLAGS, *SYSTEMS[name]))
            )
        ways = {
            DEFAULT: partial(systems[DEFAULT].measure, tokens),
            NO_BEATS: partial(systems[NO_BEATS].measure, tokens),
            KEPT: partial(systems[DEFAULT].measure, tokens, stream_retention=60),
        }
        for measure in ways.values():
            measure()
        block: Block = {name: [] for name in ways}
        for order in orders:
            for name in order:
                block[name].append(ways[name]())
        return block


def run_blocks(minutes: float, tokens: int) -> list[Block]:
    """As many blocks as begin within the time."""
    blocks: list[Block] = []
    orders = itertools.cycle(itertools.permutations((DEFAULT, NO_BEATS, KEPT)))
    ends_at = time.perf_counter() + 60 * minutes
    while time.perf_counter() < ends_at:
        names = tuple(SYSTEMS) if len(blocks) % 2 else tuple(reversed(SYSTEMS))
        blocks.append(run_block(names, itertools.islice(orders, ROUNDS), tokens))
        told = (
            f"{name} {statistics.median(s.tokens_per_s for s in samples):.0f}/s"
            f" {statistics.median(s.around for s in samples):.3f} ms around the engine"
            for name, samples in blocks[-1].items()
        )
        print(f"block {len(blocks)}:", ", ".join(told), flush=True)
    return blocks


def report(blocks: Sequence[Block], tokens: int, load: float) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    found = {name: [sample for block in blocks for sample in block[name]] for name in blocks[0]}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load average before": load,
        "load": f"{CLIENTS} streams of {tokens} tokens, {len(blocks)} blocks of {ROUNDS} rounds",
        "tokens_per_s": {
            name: round(statistics.median(s.tokens_per_s for s in samples), 1)
            for name, samples in found.items()
        },
        "cpu_us_per_token": {name: breakdown(samples) for name, samples in found.items()},
        **{f"{more} / {less}": compare(blocks, more, less) for more, less in COMPARISONS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="no block begins later")
    parser.add_argument("--tokens", type=int, default=256, help="of each of the sixteen streams of a sample")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    if load > 1:
        print(f"the load average is {load:.1f}: this machine does other work, and the result will say little")
    blocks = run_blocks(arguments.minutes, arguments.tokens)
    result = json.dumps(report(blocks, arguments.tokens, load), indent=1)
    print(result)
    if arguments.json:
        arguments.json.write_text(result + "\n")


if __name__ == "__main__":
    main()
