"""Keeps processes running: a dead one is shown and started again, ever more slowly while it keeps dying."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.cli.plan import STOP_ORDER, ProcessSpec
from services.cli.process import Child, exit_text, log_tail
from services.cli.screen import Screen
from services.common.errors import ConfigError

FIRST_DELAY_S, LAST_DELAY_S = 0.2, 15.0
SETTLED_S = 30.0  # having lived so long, a process is no longer a failing one
MAX_EARLY_DEATHS = 3  # deaths before its first readiness after which `up` gives up
CONFIG_EXIT = 2  # by which a service says that a setting or file is wrong


def restart_delay(num_deaths: int) -> float:
    """Seconds to wait before the next start, after so many deaths in a row."""
    return min(LAST_DELAY_S, FIRST_DELAY_S * 2.0 ** (num_deaths - 1))


@dataclass(slots=True)
class _Kept:
    spec: ProcessSpec
    child: Child | None = None
    was_ready: bool = False
    is_stopping: bool = False
    task: asyncio.Task[None] | None = None
    exit_code: int | None = None
    deaths: int = 0


@dataclass(slots=True)
class Supervisor:
    """``log_of`` gives the log file of an instance. ``restart`` False: the dead stay dead."""

    log_of: Callable[[str], Path]
    screen: Screen
    restart: bool = True
    num_crashes: int = 0
    failed: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _kept: dict[str, _Kept] = field(default_factory=dict)

    async def start(self, spec: ProcessSpec) -> None:
        kept = self._kept[spec.instance_id] = _Kept(spec)
        kept.child = await Child.start(spec, self.log_of(spec.instance_id))
        kept.task = asyncio.create_task(self._keep(kept))

    def mark_ready(self, instance_id: str) -> None:
        """From now on its death is an incident, not a failure to start."""
        if instance_id in self._kept:
            self._kept[instance_id].was_ready = True

    def tail(self, instance_id: str, num_lines: int = 12) -> list[str]:
        return log_tail(self.log_of(instance_id), num_lines)

    async def stop(self, timeout_s: float, hurry: asyncio.Event) -> None:
        """Ends everything in STOP_ORDER: asks, waits so long per service, kills. ``hurry`` kills at once."""
        for service in STOP_ORDER:
            group = [k for k in self._kept.values() if k.spec.service == service]
            await self._stop_group(group, timeout_s, hurry)

    async def _stop_group(self, group: Sequence[_Kept], timeout_s: float, hurry: asyncio.Event) -> None:
        tasks: list[asyncio.Task[None]] = []
        for kept in group:
            kept.is_stopping = True
            if kept.child and kept.child.is_running:
                kept.child.signal(signal.SIGTERM)
                tasks += [kept.task] if kept.task else []
            elif kept.task:
                kept.task.cancel()  # it was waiting to start again
        if not tasks:
            return
        ended = asyncio.ensure_future(asyncio.wait(tasks, timeout=timeout_s))
        told = asyncio.ensure_future(hurry.wait())
        await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        for kept in group:
            if kept.child and kept.child.is_running:
                if not hurry.is_set():
                    self.num_crashes += 1
                    self.screen.warn(f"{kept.spec.instance_id} did not stop in {timeout_s:.0f} s: killed")
                kept.child.signal(signal.SIGKILL)
        await asyncio.wait(tasks)
        await ended

    async def _keep(self, kept: _Kept) -> None:
        loop = asyncio.get_running_loop()
        while True:
            assert kept.child is not None
            started = loop.time()
            code = kept.exit_code = await kept.child.wait()
            if kept.is_stopping:
                self._note_stopped(kept, code)
                return
            self.num_crashes += 1
            kept.deaths = 1 if loop.time() - started > SETTLED_S else kept.deaths + 1
            if self._is_hopeless(kept, code):
                return
            self._show_death(kept, code)
            if not self.restart:
                return
            await asyncio.sleep(restart_delay(kept.deaths))
            if kept.is_stopping:
                return
            kept.child = await Child.start(kept.spec, self.log_of(kept.spec.instance_id))

    def _note_stopped(self, kept: _Kept, code: int) -> None:
        if code not in (0, -signal.SIGTERM, -signal.SIGKILL, 1 if kept.spec.service == "nats" else 0):
            self.num_crashes += 1
            self.screen.warn(f"{kept.spec.instance_id} {exit_text(code)} while stopping")

    def _is_hopeless(self, kept: _Kept, code: int) -> bool:
        """Whether a service that never was ready should not be tried again; tells whoever waits for it."""
        if kept.was_ready or (code != CONFIG_EXIT and kept.deaths < MAX_EARLY_DEATHS):
            return False
        lines = [line for line in self.tail(kept.spec.instance_id) if line.strip()]
        if code == CONFIG_EXIT and lines:
            reason = lines[-1].removeprefix("shoal ")
        else:
            shown = "\n".join(f"    {line}" for line in lines)
            reason = f"{kept.spec.instance_id} {exit_text(code)} {kept.deaths} times without becoming ready:\n{shown}"
        if not self.failed.done():
            self.failed.set_exception(ConfigError(reason))
        return True

    def _show_death(self, kept: _Kept, code: int) -> None:
        then = f"starting it again in {restart_delay(kept.deaths):.1f} s" if self.restart else "it stays down"
        self.screen.bad(f"{kept.spec.instance_id} {exit_text(code)}; {then}. The end of its log:")
        for line in self.tail(kept.spec.instance_id):
            self.screen.line(self.screen.paint(f"    {line}", "dim"))
