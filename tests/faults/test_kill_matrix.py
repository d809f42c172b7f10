"""Kill, stop or pause any service under 64 streams: every client gets, byte for byte, what it gets in peace.

No client repeats a request. Where a gateway is killed, its clients' connections break; they take their streams up at
the other gateway. What is not streamed cannot be taken up, so all of that is asked of the gateway that lives on.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.stack import Stack
from tests.faults.conftest import Undisturbed
from tests.faults.strikes import KILL, PAUSE, REDIS_LOSES_ALL, TERM, Fault, strike, wait_until_whole
from tests.faults.workload import Outcome, differences, run_all

# The order spreads kills of the same service, which `up` starts again ever more slowly.
FAULTS = [
    pytest.param([("worker-1", KILL)], id="worker-SIGKILL"),
    pytest.param([("gateway-1", KILL)], id="gateway-SIGKILL"),
    pytest.param([("router-1", KILL)], id="router-SIGKILL"),
    pytest.param([("worker-2", TERM)], id="worker-SIGTERM"),
    pytest.param([("detokenizer-1", KILL)], id="detokenizer-SIGKILL"),
    pytest.param([("gateway-2", TERM)], id="gateway-SIGTERM"),
    pytest.param([("router-2", TERM)], id="router-SIGTERM"),
    pytest.param([("worker-1", PAUSE)], id="worker-SIGSTOP"),
    pytest.param([("gateway-2", PAUSE)], id="gateway-SIGSTOP"),
    pytest.param([("router-1", PAUSE)], id="router-SIGSTOP"),
    pytest.param([("detokenizer-2", TERM)], id="detokenizer-SIGTERM"),
    pytest.param([("detokenizer-1", PAUSE)], id="detokenizer-SIGSTOP"),
    pytest.param([("rank of worker-2", KILL)], id="rank-SIGKILL"),
    pytest.param([("rank of worker-1", PAUSE)], id="rank-SIGSTOP"),
    pytest.param([("kvstore-1", KILL)], id="kvstore-SIGKILL"),
    pytest.param([("kvstore-1", TERM)], id="kvstore-SIGTERM"),
    pytest.param([("kvstore-1", PAUSE)], id="kvstore-SIGSTOP"),
    pytest.param([("redis", KILL)], id="redis-SIGKILL"),
    pytest.param([("redis", PAUSE)], id="redis-SIGSTOP"),
    pytest.param([("nats", KILL)], id="nats-SIGKILL"),
    pytest.param([("nats", PAUSE)], id="nats-SIGSTOP"),
    pytest.param([("worker-1", KILL), ("router-1", KILL)], id="worker-and-router-SIGKILL"),
    pytest.param([("gateway-1", KILL), ("detokenizer-1", KILL)], id="gateway-and-detokenizer-SIGKILL"),
    pytest.param([("worker-2", KILL), ("detokenizer-2", KILL)], id="worker-and-detokenizer-SIGKILL"),
    pytest.param([("gateway-1", KILL), ("worker-1", KILL)], id="gateway-and-worker-SIGKILL"),
    pytest.param([("nats", KILL), ("worker-2", KILL)], id="nats-and-worker-SIGKILL"),
    pytest.param([("redis", KILL), ("gateway-1", KILL)], id="redis-and-gateway-SIGKILL"),
    pytest.param([REDIS_LOSES_ALL, ("gateway-1", KILL)], id="redis-FLUSHALL-and-gateway-SIGKILL"),
    pytest.param([("kvstore-1", KILL), ("gateway-1", KILL)], id="kvstore-and-gateway-SIGKILL"),
    pytest.param([("worker-1", KILL), ("worker-2", KILL)], id="both-workers-SIGKILL"),
]


async def run_under(stack: Stack, calm: Undisturbed, faults: list[Fault]) -> list[Outcome]:
    outcomes, _ = await asyncio.gather(
        run_all(stack.base_urls, calm.jobs), strike(stack, faults, 0.35 * calm.seconds)
    )
    await wait_until_whole(stack)
    return outcomes


@pytest.mark.timeout(240)
@pytest.mark.parametrize("faults", FAULTS)
def test_no_request_is_lost_or_changed(
    faulty_stack: Stack, undisturbed: Undisturbed, faults: list[Fault]
) -> None:
    outcomes = asyncio.run(run_under(faulty_stack, undisturbed, faults))
    worst = max(outcome.worst_stall_s for outcome in outcomes)
    print(f"worst stall {worst:.2f} s; {sum(o.reconnects > 0 for o in outcomes)} streams taken up elsewhere")
    assert differences(outcomes, undisturbed.outcomes) == []
    is_gateway_killed = ("gateway-1", KILL) in faults
    assert any(outcome.reconnects for outcome in outcomes) == is_gateway_killed


@pytest.mark.timeout(240)
def test_undisturbed_runs_are_equal(faulty_stack: Stack, undisturbed: Undisturbed) -> None:
    outcomes = asyncio.run(run_all(faulty_stack.base_urls, undisturbed.jobs))
    assert differences(outcomes, undisturbed.outcomes) == []
