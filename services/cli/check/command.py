"""Runs the checks one after the other and shows each at once."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from services.cli import rundir
from services.cli.check import machine, model, network
from services.cli.check.result import FAIL, OK, WARN, Result
from services.cli.screen import Screen
from services.common.model_files import DEMO_MODEL
from services.common.options import Settings, parse

HELP = """./shoal check [--json] [options of up]

Tests this machine for `up` with the same options: Python, torch, GPUs, collectives, memory, disk, NATS, Redis,
ports and the model's files. Exit code 1 when something fails.
"""


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(HELP, end="")
        return 0
    as_json = "--json" in argv
    settings = parse("up", [word for word in argv if word != "--json"], os.environ)
    screen, found = Screen(), []
    for result in results(settings):
        found.append(result)
        if not as_json:
            _show(result, screen)
    num_failed = sum(result.status == FAIL for result in found)
    if as_json:
        print(json.dumps({"ok": not num_failed, "checks": [asdict(result) for result in found]}, indent=1))
    else:
        screen.line()
        screen.line(
            f"{num_failed} of {len(found)} checks failed."
            if num_failed
            else "This machine can run `./shoal up`."
        )
    return 1 if num_failed else 0


def results(settings: Settings) -> Iterator[Result]:
    root = rundir.state_root(os.environ)
    model_dir = Path(settings.model_dir) if settings.model_dir else DEMO_MODEL
    checks: list[Callable[[], list[Result]]] = [
        machine.python,
        machine.torch,
        lambda: machine.gpus(settings),
        lambda: machine.collectives(settings),
        machine.memory,
        lambda: machine.disk(root),
        lambda: asyncio.run(network.nats(settings)),
        lambda: asyncio.run(network.redis(settings)),
        lambda: network.ports(settings),
        lambda: model.files(model_dir, is_demo=not settings.model_dir),
    ]
    for check in checks:
        yield from check()


def _show(result: Result, screen: Screen) -> None:
    show = {OK: screen.ok, WARN: screen.warn, FAIL: screen.bad}[result.status]
    show(f"{result.name:12} {result.detail}")
    if result.advice:
        screen.line(f"               {screen.paint('->', 'bold')} {result.advice}")
