"""How fast a fault is seen and made good: ``python -m bench.faults [--repeat 5] [--json FILE]``.

Every service is struck under a load of sixteen clients that never pause; each round strikes them all, so that what
the machine does meanwhile falls on all alike. From the requests' own traces: how long until the first gateway acted
on the fault (submitted again or asked for a replay). From the clients: the longest wait for more tokens of each
stream that had some, and the worst of each strike; the time to the first token of requests that had been sent and
had none; the same of those sent within three seconds.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.cli.trace import collect
from services.common.model_files import DEMO_MODEL
from tests.fakes.stack import TWO_OF_EACH, Stack
from tests.faults.load import Answer, Load
from tests.faults.strikes import KILL, PAUSE, TERM, Fault, strike, wait_until_whole
from tests.faults.workload import jobs, run_all

FAULTS: list[Fault] = [
    ("worker-1", KILL), ("router-1", KILL), ("detokenizer-1", KILL), ("gateway-1", KILL), ("nats", KILL),
    ("worker-2", PAUSE), ("router-2", PAUSE), ("detokenizer-2", PAUSE), ("gateway-2", PAUSE), ("nats", PAUSE),
    ("worker-1", TERM), ("router-1", TERM), ("detokenizer-1", TERM), ("gateway-2", TERM),
    ("rank of worker-2", KILL), ("kvstore-1", KILL), ("redis", KILL),
]  # fmt: skip
BEFORE_S, AFTER_S = 2.5, 3.0
NUM_TRACES = 4
HEAD = """| fault | strikes | requests, failed | seen after | worst stall of a strike | TTFT of those without a token \
| TTFT of those sent within 3 s | TTFT before |
|---|---|---|---|---|---|---|---|"""


@dataclass(slots=True)
class Figures:
    """Seconds, gathered over repeats."""

    detection: list[float] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    worst_stalls: list[float] = field(default_factory=list)  # of each strike
    waiting_first_token: list[float] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    calm_first_token: list[float] = field(default_factory=list)
    num_requests: int = 0
    failures: list[str] = field(default_factory=list)
    num_strikes: int = 0

    def to_json(self) -> dict[str, Any]:
        figures = {
            "first act of a gateway": self.detection,
            "stalls": self.stalls,
            "worst stall of a strike": self.worst_stalls,
            "TTFT of those without a token": self.waiting_first_token,
            "TTFT of those sent within 3 s": self.first_token,
            "TTFT before": self.calm_first_token,
        }
        counts = {"strikes": self.num_strikes, "requests": self.num_requests, "failures": self.failures}
        return counts | {name: summary(values) for name, values in figures.items()}


def summary(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {"count": 0}
    points = {"p50": statistics.median(values), "max": max(values)}
    return {"count": len(values)} | {name: round(value, 3) for name, value in points.items()}


def shown(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} / {max(values):.2f}" if values else "-"


async def detections(stack: Stack, hit: Sequence[Answer], struck_at: float) -> list[float]:
    """From the strike to the first act of a gateway, for each of the requests that acted."""
    found = []
    for answer in hit:
        request_id = answer.outcome.stream_path.rpartition("/")[2]
        replies = await collect(stack.state["bus"], request_id, 0.3) if request_id else []
        acts = [
            event.at_s - struck_at
            for reply in replies
            for event in reply.events
            if reply.service == "gateway" and event.at_s > struck_at
            and (event.event in ("replay", "bounced") or (event.event == "submit" and event.fields["attempt"] != "1"))
        ]  # fmt: skip
        found += [min(acts)] if acts else []
    return found


async def measure(stack: Stack, load: Load, fault: Fault, figures: Figures) -> None:
    struck_at = 0.0

    async def work() -> None:
        nonlocal struck_at
        await asyncio.sleep(BEFORE_S)
        struck_at = await strike(stack, [fault], asyncio.sleep(0))
        await asyncio.sleep(AFTER_S)
        await wait_until_whole(stack)

    await load.during(work())
    streams = [answer for answer in load.answers if answer.outcome.token_times]
    began = [a for a in streams if a.sent_at + a.outcome.first_token_s < struck_at]
    hit = [a for a in began if a.sent_at + a.outcome.token_times[-1] > struck_at]
    stalls = [a.outcome.stall_after(struck_at - a.sent_at) for a in hit]
    figures.stalls += stalls
    figures.worst_stalls += [max(stalls)] if stalls else []
    figures.num_strikes += 1
    figures.calm_first_token += [a.outcome.first_token_s for a in began]
    waiting = [a for a in streams if a.sent_at < struck_at < a.sent_at + a.outcome.first_token_s]
    figures.waiting_first_token += [a.outcome.first_token_s for a in waiting]
    after = [a for a in streams if struck_at <= a.sent_at < struck_at + AFTER_S]
    figures.first_token += [a.outcome.first_token_s for a in after]
    figures.num_requests += len(load.answers)
    figures.failures += load.failures
    worst = sorted(hit, key=lambda a: -a.outcome.stall_after(struck_at - a.sent_at))[:NUM_TRACES]
    figures.detection += await detections(stack, worst, struck_at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="written after each round")
    parser.add_argument("--only", default="", help="faults whose target begins so, such as router")
    arguments = parser.parse_args()
    flags = (*TWO_OF_EACH, "--model_name", "m", "--stream_retention", "60")
    todo, table = jobs("m"), {fault: Figures() for fault in FAULTS if fault[0].startswith(arguments.only)}
    with tempfile.TemporaryDirectory() as folder, Stack(Path(folder), DEMO_MODEL, *flags) as stack:
        expected = asyncio.run(run_all(stack.base_urls, todo))
        for number in range(1, arguments.repeat + 1):
            for fault, figures in table.items():
                load = Load(stack.base_urls, todo, expected, may_repeat=True)
                asyncio.run(measure(stack, load, fault, figures))
                print(f"round {number}: {row(fault, figures)}", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(report(table), indent=1) + "\n")
    print(HEAD, *(row(fault, figures) for fault, figures in table.items()), sep="\n")


def report(table: dict[Fault, Figures]) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "load average": [round(value, 1) for value in os.getloadavg()],
        "load": "16 clients that never pause, two of each service, demo model; seconds",
        "faults": {f"{target} {number.name}": f.to_json() for (target, number), f in table.items()},
    }


def row(fault: Fault, figures: Figures) -> str:
    """One line of the table in docs/reliability.md."""
    columns = (
        figures.detection,
        figures.worst_stalls,
        figures.waiting_first_token,
        figures.first_token,
        figures.calm_first_token,
    )
    counts = f"{figures.num_strikes} | {figures.num_requests}, {len(figures.failures)}"
    return f"| {fault[0]} {fault[1].name} | {counts} | {' | '.join(map(shown, columns))} |"


if __name__ == "__main__":
    main()
