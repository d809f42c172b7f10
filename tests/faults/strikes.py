"""Sending signals to the services of a running system, and waiting until it is whole again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

import httpx
import psutil

from services.cli import fleet
from tests.fakes.stack import Stack
from tests.fakes.waiting import until

PAUSE_S = 2.5  # longer than the lease: a paused service counts as dead, and comes back fenced
RECOVERY_S = 90.0

KILL, TERM, PAUSE = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP
Fault = tuple[str, signal.Signals]  # target, signal


def pid_of(stack: Stack, target: str) -> int:
    """The process of a service, of "nats", of "redis", or of the "rank of" a worker."""
    if target.startswith("rank of "):
        worker = psutil.Process(stack.pid(target.removeprefix("rank of ")))
        return int(max(worker.children(), key=lambda p: p.memory_info().rss).pid)
    return stack.pid(target)


async def strike(stack: Stack, faults: Sequence[Fault], after_s: float) -> float:
    """Sends each fault's signal; what was paused goes on after PAUSE_S. Returns when it struck, by the wall clock."""
    pids = [(pid_of(stack, target), number) for target, number in faults]
    await asyncio.sleep(after_s)
    struck_at = time.time()
    for pid, number in pids:
        os.kill(pid, number)
    paused = [pid for pid, number in pids if number == PAUSE]
    if paused:
        await asyncio.sleep(PAUSE_S)
        for pid in paused:
            with suppress(ProcessLookupError):  # a worker ends a rank that answers nothing
                os.kill(pid, signal.SIGCONT)
    return struck_at


async def wait_until_whole(stack: Stack) -> None:
    """Until every service, heard from now on, is ready, and every gateway has got a token through."""
    async with asyncio.timeout(RECOVERY_S):
        await until(lambda: _runs(stack, "nats") and _runs(stack, "redis"), "its servers", RECOVERY_S)
        bus, subjects = await fleet.connect(stack.state["bus"], "tests")
        seen = fleet.Fleet()
        expected = [name for names in stack.state["services"].values() for name in names]
        try:
            await bus.subscribe(subjects.heartbeats(), seen.on_message)
            await until(lambda: all(map(seen.is_ready, expected)), "its services", RECOVERY_S)
            await until(lambda: _are_ready(stack.base_urls), "its gateways", RECOVERY_S)
        finally:
            await bus.close()


def _runs(stack: Stack, name: str) -> bool:
    return any(f"{name}-server" in process.name() for process in stack.processes())


def _are_ready(base_urls: Iterable[str]) -> bool:
    try:
        return all(httpx.get(url + "/ready", timeout=5.0).status_code == 200 for url in base_urls)
    except httpx.HTTPError:
        return False
