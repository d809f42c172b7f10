"""What surviving costs while nothing fails: ``python -m bench.overhead [--minutes 10]``, on a quiet machine.

Three ways serve the same load in turn, in every order, round after round: as by default; on a second system whose
heartbeats and Holdings come nearly never; and as by default with every stream kept (``stream_retention`` in the
request, so the processes are the same ones). Each round gives one ratio; the median of the rounds' ratios is given
with its 95% interval by bootstrap, so what the machine does to both ways of a round drops out. CPU time says more
than throughput, and what is added outside of the engine more than the sum: the engine takes most of the time, does
the same in all ways, and varies most.
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
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
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
    values: Sequence[float], seed: int = 1, resamples: int = 4000
) -> tuple[float, float, float]:
    """The median and its 95% interval, by percentile bootstrap."""
    rng = random.Random(seed)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(resamples))
    cut = resamples // 40
    return statistics.median(values), medians[cut], medians[-cut - 1]


def describe(values: Sequence[float], aim: float) -> dict[str, Any]:
    """A ratio over the rounds, and what it says about the aim of staying under ``aim``."""
    middle, low, high = median_interval(values)
    said = "shown" if high < aim else "missed" if low > aim else "undecided"
    return {
        "ratio": round(middle, 4),
        "95% interval": [round(low, 4), round(high, 4)],
        "rounds' spread": [round(min(values), 3), round(max(values), 3)],
        f"under {aim:g}": said,
    }


def compare(more: Sequence[Sample], less: Sequence[Sample]) -> dict[str, Any]:
    """The cost of one way against another, from their samples of the same rounds."""
    pairs = list(zip(more, less, strict=True))
    return {
        "cpu": describe([a.total / b.total for a, b in pairs], AIM),
        "cpu, if the engine's were the same": describe(
            [1 + (a.around - b.around) / b.total for a, b in pairs], AIM
        ),
        "time per token": describe([b.tokens_per_s / a.tokens_per_s for a, b in pairs], AIM),
    }


def breakdown(samples: Sequence[Sample]) -> dict[str, float]:
    """CPU microseconds per token of each service: medians."""
    names = sorted({name for sample in samples for name in sample.cpu})
    return {name: round(1000 * statistics.median(s.cpu.get(name, 0.0) for s in samples), 1) for name in names}


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


def run_rounds(default: System, no_beats: System, minutes: float, tokens: int) -> dict[str, list[Sample]]:
    """As many rounds as fit; the first warms up and is left out."""
    ways = {
        DEFAULT: lambda: default.measure(tokens),
        NO_BEATS: lambda: no_beats.measure(tokens),
        KEPT: lambda: default.measure(tokens, stream_retention=60),
    }
    found: dict[str, list[Sample]] = {name: [] for name in ways}
    for measure in ways.values():
        measure()
    ends_at = time.perf_counter() + 60 * minutes
    for order in itertools.cycle(itertools.permutations(ways)):
        for name in order:
            found[name].append(ways[name]())
        last = ", ".join(f"{k} {v[-1].tokens_per_s:.0f}/s {v[-1].total:.3f} ms" for k, v in found.items())
        print(f"round {len(found[DEFAULT])}: {last}", flush=True)
        if time.perf_counter() > ends_at:
            return found
    raise AssertionError("a cycle has no end")


def report(found: dict[str, list[Sample]], tokens: int, load: float) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load average before": load,
        "load": f"{CLIENTS} streams of {tokens} tokens, {len(found[DEFAULT])} rounds",
        "tokens_per_s": {
            name: round(statistics.median(s.tokens_per_s for s in samples), 1)
            for name, samples in found.items()
        },
        "cpu_us_per_token": {name: breakdown(samples) for name, samples in found.items()},
        **{f"{more} / {less}": compare(found[more], found[less]) for more, less in COMPARISONS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="beside a minute to start and end")
    parser.add_argument("--tokens", type=int, default=256, help="of each of the sixteen streams of a sample")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    if load > 1:
        print(f"the load average is {load:.1f}: this machine does other work, and the result will say little")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        systems = []
        for name, flags in (("a", ()), ("b", ("--heartbeat_interval", "20", "--lease", "80"))):
            (directory := Path(folder) / name).mkdir()
            systems.append(System(running.enter_context(Stack(directory, DEMO_MODEL, *FLAGS, *flags))))
        found = run_rounds(*systems, arguments.minutes, arguments.tokens)
    result = json.dumps(report(found, arguments.tokens, load), indent=1)
    print(result)
    if arguments.json:
        arguments.json.write_text(result + "\n")


if __name__ == "__main__":
    main()
