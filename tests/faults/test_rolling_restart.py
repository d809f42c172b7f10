"""Every service in turn is told to stop, under load that never pauses: no request fails, every exit code is 0."""

from __future__ import annotations

import asyncio
import signal

import psutil
import pytest

from services.common.options import parse
from tests.fakes.stack import Stack
from tests.fakes.waiting import until
from tests.faults.conftest import Undisturbed
from tests.faults.load import Load
from tests.faults.strikes import wait_until_whole

DRAIN_TIMEOUT_S = parse("gateway", [], {}).drain_timeout


async def restart(stack: Stack, instance_id: str) -> None:
    pid = stack.signal(instance_id, signal.SIGTERM)
    await until(lambda: not psutil.pid_exists(pid), f"{instance_id} to stop", DRAIN_TIMEOUT_S)
    await wait_until_whole(stack)


@pytest.mark.timeout(300)
def test_a_rolling_restart_fails_no_request(faulty_stack: Stack, undisturbed: Undisturbed) -> None:
    load = Load(faulty_stack.base_urls, undisturbed.jobs, undisturbed.outcomes)
    names = [name for group in faulty_stack.state["services"].values() for name in group]

    async def restart_all() -> None:
        for name in names:
            await restart(faulty_stack, name)

    said_before = faulty_stack.output()
    asyncio.run(load.during(restart_all()))
    print(f"{len(load.answers)} requests, worst stall {load.worst_stall_s:.2f} s")
    assert load.failures == []
    assert not any(answer.outcome.reconnects for answer in load.answers), "no client saw its connection break"
    said = faulty_stack.output().removeprefix(said_before)
    assert [name for name in names if f"{name} exited with 0;" not in said] == []
