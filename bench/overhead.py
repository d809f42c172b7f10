"""What surviving costs while nothing fails: ``python -m bench.overhead [--rounds 7]``.

Three systems serve the same load in turn, round after round: as by default; with heartbeats and Holdings nearly never;
and with streams kept for clients that come back. They are compared as ratios of medians, by throughput and by the
CPU time of all their processes per token. The latter says more on a machine that does other work too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.cpu_serving import ours
from services.common.model_files import DEMO_MODEL
from tests.fakes.stack import Stack

WAYS = {
    "default": (),
    "beats nearly never": ("--heartbeat_interval", "20", "--lease", "80"),
    "streams kept": ("--stream_retention", "60"),
}
CLIENTS = 16


def cpu_seconds(stack: Stack) -> float:
    """Of all processes of the system so far."""
    times = [process.cpu_times() for process in stack.processes()]
    return sum(t.user + t.system for t in times)


def measure(stack: Stack, tokens: int) -> tuple[float, float]:
    """(tokens/s, CPU milliseconds per token) of one round."""
    before, began = cpu_seconds(stack), time.perf_counter()
    rate = asyncio.run(ours(stack.base_urls[0], stack.model, CLIENTS, tokens))
    made = rate * (time.perf_counter() - began)
    return rate, (cpu_seconds(stack) - before) * 1000 / made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128, help="of each of the sixteen streams of a round")
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        stacks: dict[str, Stack] = {}
        for i, (name, flags) in enumerate(WAYS.items()):
            (directory := Path(folder) / str(i)).mkdir()
            stacks[name] = running.enter_context(Stack(directory, DEMO_MODEL, *flags))
        for number in range(arguments.rounds + 1):  # the first round warms up
            for name in sorted(stacks, key=lambda name: (list(WAYS).index(name) + number) % len(WAYS)):
                found[name].append(measure(stacks[name], arguments.tokens))
            print(f"round {number}: " + ", ".join(f"{k} {v[-1][0]:.0f} tokens/s" for k, v in found.items()))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    rates = {name: statistics.median(rate for rate, _ in pairs[1:]) for name, pairs in found.items()}
    costs = {name: statistics.median(cost for _, cost in pairs[1:]) for name, pairs in found.items()}
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load": f"{CLIENTS} streams of {arguments.tokens} tokens, {arguments.rounds} rounds each, in turn",
        "tokens_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "cpu_ms_per_token": {name: round(cost, 3) for name, cost in costs.items()},
        "cpu of default / beats nearly never": round(costs["default"] / costs["beats nearly never"], 3),
        "cpu of streams kept / default": round(costs["streams kept"] / costs["default"], 3),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
