"""Plays one world and tells what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from services.common.logs import LogFormatter
from tests.simulation.client import Broken, Call
from tests.simulation.loop import Stuck, VirtualLoop, current_process, run_virtual
from tests.simulation.plan import make_plan
from tests.simulation.world import World

# What a service may log as an error: it says so when its engine is killed.
_EXPECTED_ERRORS = ("the engine died", "stopping: the engine died")


@dataclass
class Result:
    """What came of one world. ``failures`` is empty when every promise was kept."""

    seed: int
    failures: list[str] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    ended_at: float = 0.0  # virtual
    timeline: list[str] = field(default_factory=list)
    num_messages: int = 0
    events: Counter[str] = field(default_factory=Counter)  # what the machinery had to do


def simulate(seed: int, *, with_timeline: bool = False) -> Result:
    """Plays the world of one seed."""
    result = Result(seed)
    watch = Watch(result, with_timeline)
    root = logging.getLogger()
    before, root.handlers[:], root.level = (root.handlers[:], root.level), [watch], watch.level

    async def main(loop: VirtualLoop) -> None:
        loop.set_exception_handler(watch.on_loop_error)
        world = World(make_plan(seed), loop)
        try:
            await world.run()
        except Broken as broken:
            result.failures.append(str(broken))
        result.calls, result.ended_at = world.calls, loop.time()
        result.num_messages = world.broker.num_published
        result.events = world.events()
        result.failures += [f"{c.ask.request_id} {c.how}" for c in world.calls if c.how.startswith("BROKEN")]
        limit = world.plan.max_stall_s or float("inf")
        result.failures += [
            f"{c.ask.request_id} stalled for {c.max_stall_s:.2f} s"
            for c in world.calls
            if c.max_stall_s > limit
        ]

    try:
        run_virtual(main)
    except Stuck as stuck:
        result.failures.append(str(stuck))
    finally:
        root.handlers[:], root.level = before
    return result


class Watch(logging.Handler):
    """Takes logged errors as failures, and keeps a timeline on request."""

    def __init__(self, result: Result, with_timeline: bool) -> None:
        super().__init__(logging.INFO if with_timeline else logging.ERROR)
        self._result = result
        self.setFormatter(LogFormatter("", "", as_json=False))

    def emit(self, record: logging.LogRecord) -> None:
        process = current_process()
        line = self.format(record).split(" ", 3)[3]
        name = process.name if process else "-"
        self._result.timeline.append(f"{asyncio.get_running_loop().time():8.3f} {name:16} {line}")
        if record.levelno >= logging.ERROR and not record.getMessage().startswith(_EXPECTED_ERRORS):
            self._result.failures.append(f"{name} logged an error: {line}")

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not context["message"].startswith("Task was destroyed"):
            self._result.failures.append(f"unhandled: {context['message']}: {context.get('exception')!r}")
