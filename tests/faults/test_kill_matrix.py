"""Kill, stop or pause any service under 64 streams: every client gets, byte for byte, what it gets in peace."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
import pytest

from tests.fakes.stack import Stack
from tests.faults.conftest import Undisturbed
from tests.faults.workload import Outcome, differences, run_all

PAUSE_S = 2.5  # longer than the lease: a paused service counts as dead, and comes back fenced
RECOVERY_S = 60.0

KILL, TERM, PAUSE = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP

FAULTS = [
    pytest.param([("worker-1", KILL)], id="worker-SIGKILL"),
    pytest.param([("worker-1", TERM)], id="worker-SIGTERM"),
    pytest.param([("worker-1", PAUSE)], id="worker-SIGSTOP"),
    pytest.param([("rank of worker-2", KILL)], id="rank-SIGKILL"),
    pytest.param([("router-1", KILL)], id="router-SIGKILL"),
    pytest.param([("router-2", TERM)], id="router-SIGTERM"),
    pytest.param([("router-1", PAUSE)], id="router-SIGSTOP"),
    pytest.param([("detokenizer-1", KILL)], id="detokenizer-SIGKILL"),
    pytest.param([("detokenizer-2", TERM)], id="detokenizer-SIGTERM"),
    pytest.param([("detokenizer-1", PAUSE)], id="detokenizer-SIGSTOP"),
    pytest.param([("kvstore-1", KILL)], id="kvstore-SIGKILL"),
    pytest.param([("redis", KILL)], id="redis-SIGKILL"),
    pytest.param([("redis", PAUSE)], id="redis-SIGSTOP"),
    pytest.param([("nats", KILL)], id="nats-SIGKILL"),
    pytest.param([("nats", PAUSE)], id="nats-SIGSTOP"),
    pytest.param([("worker-1", KILL), ("router-1", KILL)], id="worker-and-router-SIGKILL"),
    pytest.param([("worker-2", KILL), ("detokenizer-2", KILL)], id="worker-and-detokenizer-SIGKILL"),
    pytest.param([("nats", KILL), ("worker-1", KILL)], id="nats-and-worker-SIGKILL"),
    pytest.param([("worker-1", KILL), ("worker-2", KILL)], id="both-workers-SIGKILL"),
]


def pid_of(stack: Stack, target: str) -> int:
    if target.startswith("rank of "):
        worker = psutil.Process(stack.pid(target.removeprefix("rank of ")))
        return max(worker.children(), key=lambda p: p.memory_info().rss).pid
    return stack.pid(target)


async def strike(stack: Stack, faults: list[tuple[str, signal.Signals]], after_s: float) -> None:
    """Sends each fault's signal; what was paused goes on after PAUSE_S."""
    pids = [(pid_of(stack, target), number) for target, number in faults]
    await asyncio.sleep(after_s)
    for pid, number in pids:
        os.kill(pid, number)
    if any(number == PAUSE for _, number in faults):
        await asyncio.sleep(PAUSE_S)
        for pid, number in pids:
            if number == PAUSE:
                os.kill(pid, signal.SIGCONT)


async def run_under(
    stack: Stack, calm: Undisturbed, faults: list[tuple[str, signal.Signals]]
) -> list[Outcome]:
    outcomes, _ = await asyncio.gather(
        run_all(stack.base_urls, calm.jobs), strike(stack, faults, 0.35 * calm.seconds)
    )
    return outcomes


def wait_until_whole(stack: Stack) -> None:
    """Until `status` finds every service ready again."""
    deadline = time.monotonic() + RECOVERY_S
    while (done := stack.cli("status")).returncode != 0:
        assert time.monotonic() < deadline, f"not whole again: {done.stdout}\n{stack.logs()}"
        time.sleep(0.3)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("faults", FAULTS)
def test_no_request_is_lost_or_changed(
    faulty_stack: Stack, undisturbed: Undisturbed, faults: list[tuple[str, signal.Signals]]
) -> None:
    outcomes = asyncio.run(run_under(faulty_stack, undisturbed, faults))
    worst = max(outcome.worst_stall_s for outcome in outcomes)
    print(f"worst stall {worst:.2f} s")
    assert differences(outcomes, undisturbed.outcomes) == []
    wait_until_whole(faulty_stack)


@pytest.mark.timeout(240)
def test_undisturbed_runs_are_equal(faulty_stack: Stack, undisturbed: Undisturbed) -> None:
    assert (
        differences(asyncio.run(run_all(faulty_stack.base_urls, undisturbed.jobs)), undisturbed.outcomes)
        == []
    )
