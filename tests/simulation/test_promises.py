"""Thousands of small worlds with message loss, kills, pauses, drains and outages: every promise holds in each.

Each stream is exactly the expected ids in order, once, with the exact text; what was held is free at the end;
nobody waits longer than the bound; no service logs an error. Worlds are played in a process of their own, whose
hash seed is fixed, so that a failing seed replays exactly.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from services.common.cores import usable_cores
from tests.simulation.mutations import MUTATIONS
from tests.simulation.plan import PARTING_EVERY, PARTING_FIRST


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.simulation", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": "0"},
    )


def shares(num_seeds: int, num_processes: int) -> list[str]:
    """The seeds in as many equal ranges."""
    ends = [num_seeds * i // num_processes for i in range(num_processes + 1)]
    return [f"{first}:{end}" for first, end in itertools.pairwise(ends)]


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest) -> list[tuple[int, str]]:
    """All worlds, in as many processes as there are processors: the exit code of each, and what it said."""
    # The options exist only when this folder was named on the command line: pytest asks its conftest then.
    seed = request.config.getoption("--sim-seed", default=None)
    num_seeds = request.config.getoption("--sim-seeds", default=None) or int(
        os.environ.get("SHOAL_SIM_SEEDS", "2000")
    )
    if seed is not None:
        playing = [start("--seed", str(seed), "--trace")]
    else:
        playing = [start("--seeds", share) for share in shares(num_seeds, min(usable_cores(), 4))]
    outputs = [process.communicate()[0] for process in playing]
    return [(process.returncode, output) for process, output in zip(playing, outputs, strict=True)]


@pytest.mark.timeout(1800)
def test_every_promise_holds_in_every_world(played: list[tuple[int, str]]) -> None:
    print(*(output for _, output in played), sep="\n")
    assert [code for code, _ in played] == [0] * len(played)


def test_a_seed_plays_the_same_way_twice() -> None:
    first, second = (
        process.communicate()[0] for process in [start("--seeds", "0:10", "--digest") for _ in "12"]
    )
    digests = [line for line in first.splitlines() if line.startswith("digest")]
    assert len(digests) == 10
    assert digests == [line for line in second.splitlines() if line.startswith("digest")]


@pytest.mark.timeout(1800)
def test_the_worlds_are_troubled_ones(played: list[tuple[int, str]]) -> None:
    """Without this the test above could be green because nothing ever goes wrong."""
    lines = [line for _, output in played for line in output.splitlines()]
    if sum(int(line.split()[0]) for line in lines if " seeds, " in line) < 60:
        pytest.skip("a few worlds may be calm ones")
    events: Counter[str] = Counter()
    for line in lines:
        if line.startswith("events:"):
            events.update(json.loads(line[7:]))
    wanted = ["lost", "resubmissions", "replays", "stale", "kill", "pause", "drain", "outage", "deaf", "mute"]
    assert [event for event in wanted if not events[event]] == []


PARTING_SEEDS = f"{PARTING_FIRST}:{PARTING_FIRST + 10 * PARTING_EVERY}:{PARTING_EVERY}"


SEEN_BY = {
    "cancel-at-the-worker": "something is still held",
    "cancel-by-holdings": "held",
    "dead-gateways-at-the-worker": "worker-0 runs",
    "dead-gateways-at-the-router": "router-0 has",
    "fence-at-the-gateway": "rows of a superseded attempt",
    "silence-at-the-detokenizer": "detokenizer-0 has",
}


@pytest.mark.parametrize("promise", sorted(MUTATIONS))
def test_a_broken_promise_is_noticed(promise: str) -> None:
    """Ten worlds whose clients leave, or a hundred of any kind, are enough to see that one part does not do its part."""
    seeds = "0:100" if promise == "fence-at-the-gateway" else PARTING_SEEDS
    playing = start("--seeds", seeds, "--max_failures", "1", "--without", promise)
    output = playing.communicate()[0]
    assert playing.returncode == 1, output
    assert SEEN_BY[promise] in output
