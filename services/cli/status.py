"""``shoal status``: every service as its heartbeats show it. Exit code 1 when one is missing or not ready."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from services.cli import fleet, rundir
from services.cli.arguments import Arguments
from services.cli.screen import Screen, table
from services.common.messages import events

INTERVALS = 2.5  # of heartbeats that are awaited


@dataclass(frozen=True, slots=True)
class Row:
    service: str
    id: str
    pid: int
    address: str
    state: str  # the service's own word, or "missing"
    load: dict[str, float]
    host: str = ""
    model: str = ""
    version: str = ""


def rows(expected: Mapping[str, list[str]], beats: Mapping[str, events.Heartbeat]) -> list[Row]:
    """One row per instance that is expected or alive."""
    found = [_row(beat) for beat in beats.values()]
    silent = [
        Row(service, instance_id, 0, "", "missing", {})
        for service, ids in expected.items()
        for instance_id in ids
        if instance_id not in beats
    ]
    order = ("gateway", "router", "worker", "detokenizer", "kvstore")
    return sorted(found + silent, key=lambda r: (order.index(r.service) if r.service in order else 9, r.id))


def _row(beat: events.Heartbeat) -> Row:
    load = dict(beat.load)
    if beat.worker:
        w = beat.worker
        load |= {
            "running": w.running,
            "waiting": w.waiting,
            "free_blocks": w.free_blocks,
            "total_blocks": w.total_blocks,
            "tokens_per_s": round(w.tokens_per_s, 1),
        }
    return Row(
        beat.service,
        beat.instance_id,
        beat.pid,
        beat.address,
        beat.state,
        load,
        beat.host,
        beat.model,
        beat.version,
    )


async def collect(
    bus_env: Mapping[str, str], expected: Mapping[str, list[str]], interval_s: float
) -> list[Row]:
    """Listens until every expected service was heard, and for some heartbeats at least."""
    bus, subjects = await fleet.connect(bus_env, "status")
    seen = fleet.Fleet()
    try:
        await bus.subscribe(subjects.heartbeats(), seen.on_message)
        await asyncio.sleep(interval_s * INTERVALS)
    finally:
        await bus.close()
    return rows(expected, seen.beats)


def main(argv: list[str]) -> int:
    arguments = Arguments(
        prog="./shoal status",
        description="Every service: id, pid, address, state, load. Without a run of `up` on this machine it asks "
        "the NATS that SHOAL_NATS_URL and friends name. Exit code 1 when a service is missing or not ready.",
    )
    arguments.add_run_choice()
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--interval", type=float, default=0.4, help="seconds between heartbeats")
    flags = arguments.parse(argv)
    bus_env, expected = fleet.bus_of(os.environ, flags.run), {}
    for run in rundir.live_runs(rundir.state_root(os.environ)):
        if run.bus == bus_env:
            expected = run.services
    found = asyncio.run(collect(bus_env, expected, flags.interval))
    is_well = bool(found) and all(row.state == events.READY for row in found)
    if flags.json:
        print(json.dumps({"ready": is_well, "services": [asdict(row) for row in found]}, indent=1))
    else:
        _show(found, Screen())
    return 0 if is_well else 1


def _show(found: list[Row], screen: Screen) -> None:
    lines = [("SERVICE", "ID", "PID", "ADDRESS", "STATE", "LOAD")]
    for row in found:
        load = " ".join(f"{name}={value:g}" for name, value in row.load.items())
        lines.append((row.service, row.id, str(row.pid or "-"), row.address or "-", row.state, load))
    for line, state in zip(table(lines).splitlines(), ["", *(row.state for row in found)], strict=True):
        screen.line(screen.paint(line, "red") if state == "missing" else line)
    if not found:
        screen.warn("no service was heard")
