"""Sending signals to the services of a running system, and waiting until it is whole again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

import psutil
import redis

from services.cli import fleet, http
from tests.fakes.stack import Stack
from tests.fakes.waiting import until

PAUSE_S = 2.5  # longer than the lease: a paused service counts as dead, and comes back fenced
RECOVERY_S = 90.0

KILL, TERM, PAUSE = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP
Fault = tuple[str, signal.Signals]  # target, signal
REDIS_LOSES_ALL = ("redis", signal.SIGUSR1)  # no signal is sent: FLUSHALL, after which Redis goes on


def pid_of(stack: Stack, target: str) -> int:
    """The process of a service, of "nats", of "redis", or of the "rank of" a worker."""
    if target.startswith("rank of "):
        worker = psutil.Process(stack.pid(target.removeprefix("rank of ")))
        return int(max(worker.children(), key=lambda p: p.memory_info().rss).pid)
    return stack.pid(target)


async def running_pid(stack: Stack, target: str) -> int:
    """The process, as soon as there is one: an earlier strike may only now be felt, or be seen by `up`."""
    async with asyncio.timeout(RECOVERY_S):
        while True:
            with suppress(AssertionError, ValueError, psutil.Error):
                return await asyncio.to_thread(pid_of, stack, target)
            await asyncio.sleep(0.05)


def flush_redis(stack: Stack) -> None:
    """As an operator may, by mistake, with the address and the password that `up` made."""
    (config,) = stack.state_root.glob("run-*/redis.conf")
    options = dict(line.split(" ", 1) for line in config.read_text().splitlines())
    with redis.Redis(port=int(options["port"]), password=options["requirepass"]) as client:
        client.flushall()


async def strike(stack: Stack, faults: Sequence[Fault], moment: Awaitable[None]) -> float:
    """Sends each fault's signal when ``moment`` has come; what was paused goes on after PAUSE_S.

    Returns when it struck, by the wall clock.
    """
    pids = [await running_pid(stack, target) for target, _ in faults]
    await moment
    struck_at = time.time()
    for i, (target, number) in enumerate(faults):
        if (target, number) == REDIS_LOSES_ALL:
            await asyncio.to_thread(flush_redis, stack)
            continue
        while True:
            try:
                os.kill(pids[i], number)
                break
            except ProcessLookupError:  # it has ended of an earlier strike; its successor is struck
                pids[i] = await running_pid(stack, target)
    paused = [pid for pid, (_, number) in zip(pids, faults, strict=True) if number == PAUSE]
    if paused:
        await asyncio.sleep(PAUSE_S)
        for pid in paused:
            with suppress(ProcessLookupError):  # a worker ends a rank that answers nothing
                os.kill(pid, signal.SIGCONT)
    return struck_at


async def wait_until_whole(stack: Stack) -> None:
    """Until every service, heard from now on, is ready, and every gateway has got a token through.

    Holds up nobody else of this event loop: clients that measure may run on it.
    """
    async with asyncio.timeout(RECOVERY_S):
        for name in ("nats", "redis"):
            await _until(partial(asyncio.to_thread, stack.runs, name))
        bus, subjects = await fleet.connect(stack.state["bus"], "tests")
        seen = fleet.Fleet()
        expected = [name for names in stack.state["services"].values() for name in names]
        try:
            await bus.subscribe(subjects.heartbeats(), seen.on_message)
            await until(lambda: all(map(seen.is_ready, expected)), "its services", RECOVERY_S)
        finally:
            await bus.close()
        for url in stack.base_urls:
            await _until(partial(_is_ready, url))


async def _until(probe: Callable[[], Awaitable[bool]]) -> None:
    while not await probe():  # noqa: ASYNC110 - nobody tells us when another process is there
        await asyncio.sleep(0.05)


async def _is_ready(url: str) -> bool:
    status, _ = await http.get(url + "/ready", timeout_s=5.0)
    return status == 200
