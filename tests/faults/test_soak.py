"""Kills at random for as long as one likes: ``./shoal test --soak 30m``. SHOAL_SOAK_SEED gives another sequence."""

from __future__ import annotations

import asyncio
import os
import random
import time

import pytest

from tests.fakes.stack import Stack
from tests.faults.conftest import Undisturbed
from tests.faults.test_kill_matrix import KILL, PAUSE, TERM, run_under, wait_until_whole
from tests.faults.workload import differences

SECONDS = float(os.environ.get("SHOAL_SOAK_SECONDS", "0"))
TARGETS = (
    "worker-1", "worker-2", "rank of worker-1", "rank of worker-2", "router-1", "router-2",
    "detokenizer-1", "detokenizer-2", "kvstore-1", "redis", "nats",
)  # fmt: skip
STOPPED_BY_TERM = tuple(name for name in TARGETS if not name.startswith("rank"))


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.skipif(not SECONDS, reason="long: ./shoal test --soak 30m")
def test_nothing_is_lost_however_long_services_are_killed(
    faulty_stack: Stack, undisturbed: Undisturbed
) -> None:
    seed = int(os.environ.get("SHOAL_SOAK_SEED", "1"))
    rng = random.Random(seed)
    deadline = time.monotonic() + SECONDS
    num_kills = num_requests = 0
    lost: list[str] = []
    worst_s = 0.0
    while time.monotonic() < deadline:
        number = rng.choice((KILL, KILL, TERM, PAUSE))
        targets = rng.sample(STOPPED_BY_TERM if number == TERM else TARGETS, rng.choice((1, 1, 2)))
        outcomes = asyncio.run(run_under(faulty_stack, undisturbed, [(name, number) for name in targets]))
        num_kills, num_requests = num_kills + len(targets), num_requests + len(outcomes)
        round_lost = differences(outcomes, undisturbed.outcomes)
        lost += [f"{number.name} of {' and '.join(targets)}: {line}" for line in round_lost]
        worst_s = max([worst_s, *(outcome.worst_stall_s for outcome in outcomes)])
        print(
            f"{num_kills} kills, {num_requests} requests, {len(lost)} failures, worst stall {worst_s:.2f} s; "
            f"last: {number.name} of {', '.join(targets)}",
            flush=True,
        )
        wait_until_whole(faulty_stack)
    print(f"seed {seed}: {num_kills} kills, {num_requests} requests, {len(lost)} failures, {worst_s:.2f} s")
    assert lost == []
