"""Plays worlds: python -m tests.simulation --seeds 0:2000, or --seed 17 --trace for one with its timeline.

The order of Python's sets depends on the hash seed, so a world is played alike only under a fixed one: run with
PYTHONHASHSEED=0.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import sys
import time
import warnings
from collections import Counter

from tests.simulation.mutations import MUTATIONS
from tests.simulation.plan import make_plan
from tests.simulation.play import Result, simulate


def digest(result: Result) -> str:
    """Equal for two runs of one seed that went alike."""
    told = [(c.ask.request_id, c.how, c.started_at, c.ended_at, c.ids, c.texts) for c in result.calls]
    return hashlib.blake2b(
        repr((told, result.num_messages, result.ended_at)).encode(), digest_size=8
    ).hexdigest()


def show(result: Result) -> None:
    for failure in result.failures:
        print(f"seed {result.seed}: {failure}")
    print(f"  again: PYTHONHASHSEED=0 python -m tests.simulation --seed {result.seed} --trace", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", default="0:200", help="first:last+1, or first:last+1:step")
    parser.add_argument(
        "--without", choices=sorted(MUTATIONS), help="break this promise, to see that it is noticed"
    )
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--trace", action="store_true", help="print what every service logged")
    parser.add_argument("--digest", action="store_true", help="print a digest of each world")
    parser.add_argument("--max_failures", type=int, default=5)
    arguments = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]],
                  os.environ | {"PYTHONHASHSEED": "0"})  # fmt: skip
    warnings.simplefilter("ignore")  # of coroutines that were killed with their process
    sys.unraisablehook = lambda _: None
    seeds = range(*map(int, arguments.seeds.split(":"))) if arguments.seed is None else [arguments.seed]
    if arguments.without:
        MUTATIONS[arguments.without]()
    gc.disable()  # garbage is collected between worlds only
    outcomes: Counter[str] = Counter()
    events: Counter[str] = Counter()
    stalls: list[float] = []  # of calls in worlds with a single fault
    num_failed, began, virtual_s = 0, time.perf_counter(), 0.0
    for seed in seeds:
        if seed % 50 == 0:
            gc.collect()
        result = simulate(seed, with_timeline=arguments.trace)
        if arguments.trace:
            print(*vars_of(seed), *result.timeline, sep="\n")
        if arguments.digest:
            print(f"digest {seed} {digest(result)}")
        outcomes.update(call.how.split(":")[0] or "gateway died" for call in result.calls)
        events.update(result.events)
        if make_plan(seed).max_stall_s:
            stalls += [call.max_stall_s for call in result.calls]
        virtual_s += result.ended_at
        if result.failures:
            num_failed += 1
            show(result)
            if num_failed >= arguments.max_failures:
                break
    took = time.perf_counter() - began
    print(f"calls: {json.dumps(outcomes)}")
    print(f"events: {json.dumps(events)}")
    if stalls:
        stalls.sort()
        print(f"longest stalls by one fault: p50 {stalls[len(stalls) // 2]:.2f} s, max {stalls[-1]:.2f} s")
    print(f"{len(seeds)} seeds, {num_failed} failed; {virtual_s:.0f} virtual seconds in {took:.1f}")
    return 1 if num_failed else 0


def vars_of(seed: int) -> list[str]:
    plan = make_plan(seed)
    return [f"{plan.counts} {plan.noise}", *map(str, plan.asks), *map(str, plan.faults)]


if __name__ == "__main__":
    sys.exit(main())
