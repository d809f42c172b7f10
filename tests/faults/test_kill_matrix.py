"""Kill, stop or pause any service under 64 streams: every client gets, byte for byte, what it gets in peace.

No client repeats a request. Where a gateway is killed, its clients' connections break; they take their streams up at
the other gateway. What is not streamed cannot be taken up, so all of that is asked of the gateway that lives on.

Each strike falls when at least half of the requests are seen in the middle of their streams, and where it must be
felt it is looked up that it was. The worst stall is printed, not judged: on a machine that others use it says more
about the machine. That stalls keep to their bound is shown on a virtual clock (tests/simulation/plan.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.e2e.metrics import scrape
from tests.fakes.stack import Stack
from tests.fakes.waiting import until
from tests.faults.conftest import Undisturbed
from tests.faults.strikes import KILL, PAUSE, REDIS_LOSES_ALL, TERM, Fault, strike, wait_until_whole
from tests.faults.workload import Outcome, differences, run_all

# The order spreads kills of the same service, which `up` starts again ever more slowly. kvstore is told to stop in
# test_rolling_restart.py; Redis alone is killed with a gateway, whose streams then need what it lost.
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
    pytest.param([("kvstore-1", PAUSE)], id="kvstore-SIGSTOP"),
    pytest.param([("redis", PAUSE)], id="redis-SIGSTOP"),
    pytest.param([("nats", KILL)], id="nats-SIGKILL"),
    pytest.param([("nats", PAUSE)], id="nats-SIGSTOP"),
    pytest.param([("worker-1", KILL), ("router-1", KILL)], id="worker-and-router-SIGKILL"),
    pytest.param([("gateway-1", KILL), ("detokenizer-1", KILL)], id="gateway-and-detokenizer-SIGKILL"),
    pytest.param([("worker-2", KILL), ("detokenizer-2", KILL)], id="worker-and-detokenizer-SIGKILL"),
    pytest.param([("gateway-2", KILL), ("worker-1", KILL)], id="gateway-and-worker-SIGKILL"),
    pytest.param([("nats", KILL), ("worker-2", KILL)], id="nats-and-worker-SIGKILL"),
    pytest.param([("redis", KILL), ("gateway-1", KILL)], id="redis-and-gateway-SIGKILL"),
    pytest.param([REDIS_LOSES_ALL, ("gateway-1", KILL)], id="redis-FLUSHALL-and-gateway-SIGKILL"),
    pytest.param([("kvstore-1", KILL), ("gateway-1", KILL)], id="kvstore-and-gateway-SIGKILL"),
    pytest.param([("worker-1", KILL), ("worker-2", KILL)], id="both-workers-SIGKILL"),
]


NUM_IN_MIDSTREAM = 32
STALL_S = 1.0  # of a stream while something that it needs stands still for PAUSE_S


def repairs(stack: Stack, faults: list[Fault]) -> Counter[str]:
    """What the gateways that are not killed have done for their streams since they started."""
    found: Counter[str] = Counter()
    for i, url in enumerate(stack.base_urls, 1):
        if (f"gateway-{i}", KILL) not in faults:
            figures = scrape(url)
            for what in ("resubmissions", "replays"):
                found[what] += int(figures[f"shoal_gateway_{what}"])
    return found


def is_felt(fault: Fault, outcomes: list[Outcome], done: Counter[str]) -> bool:
    """Whether a strike shows where it must. Of routers, kvstore and Redis no stream needs anything.

    A worker that drains may finish what it runs; a gateway that drains does. NATS is back after a kill sooner than
    some streams' next token.
    """
    target, number = fault
    worst = max(outcome.worst_stall_s for outcome in outcomes)
    if target.startswith(("worker", "rank")) and number != TERM:
        return done["resubmissions"] > 0 or (number == PAUSE and worst > STALL_S)
    if target.startswith("detokenizer"):
        return done["replays"] > 0
    if target.startswith(("gateway", "nats")) and number == PAUSE:
        return worst > STALL_S
    if target.startswith("gateway") and number == KILL:
        return any(outcome.reconnects for outcome in outcomes)
    return True


async def run_under(stack: Stack, calm: Undisturbed, faults: list[Fault]) -> list[Outcome]:
    outcomes = [Outcome() for _ in calm.jobs]

    def are_streaming() -> bool:
        return sum(outcome.is_in_midstream for outcome in outcomes) >= NUM_IN_MIDSTREAM

    urls = stack.base_urls[::-1] if ("gateway-2", KILL) in faults else stack.base_urls
    before = repairs(stack, faults)
    moment = until(are_streaming, f"{NUM_IN_MIDSTREAM} streams at once", 60)
    await asyncio.gather(run_all(urls, calm.jobs, outcomes=outcomes), strike(stack, faults, moment))
    await wait_until_whole(stack)

    def unfelt() -> list[Fault]:
        done = repairs(stack, faults) - before
        return [fault for fault in faults if not is_felt(fault, outcomes, done)]

    await until(lambda: not unfelt(), f"{unfelt()} to be felt")  # gauges are as of the last tick
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
    struck = {target.rpartition("-")[0]: number for target, number in faults}
    assert any(outcome.reconnects for outcome in outcomes) == (struck.get("gateway") == KILL)
    if "gateway" not in struck:
        assert not any(outcome.refused_connections for outcome in outcomes), "a client had to try again"


@pytest.mark.timeout(240)
def test_undisturbed_runs_are_equal(faulty_stack: Stack, undisturbed: Undisturbed) -> None:
    outcomes = asyncio.run(run_all(faulty_stack.base_urls, undisturbed.jobs))
    assert differences(outcomes, undisturbed.outcomes) == []
