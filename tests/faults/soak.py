"""Kills at random, from a seed, under load that never pauses: what `./shoal test --soak` runs and prints."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.fakes.stack import Stack
from tests.faults.load import Load
from tests.faults.strikes import KILL, PAUSE, TERM, Fault, strike, wait_until_whole

CALM_S = (0.5, 4.0)  # between the system's being whole again and the next strike
TWO_AT_ONCE = 0.2  # the share of strikes that hit two services


def choose(rng: random.Random, services: dict[str, list[str]]) -> list[Fault]:
    """One strike. Only the first gateway is killed: the second has the requests that are not streamed.

    At most one gateway is struck at once: with none there is nobody to ask.
    """
    ways: dict[str, tuple[signal.Signals, ...]] = {
        name: (KILL, TERM, PAUSE) for group in services.values() for name in group
    }
    ways |= dict.fromkeys(services["gateway"][1:], (TERM, PAUSE))
    ways |= {"nats": (KILL, PAUSE), "redis": (KILL, PAUSE)}
    ways |= {f"rank of {name}": (KILL, PAUSE) for name in services["worker"]}
    while True:
        targets = rng.sample(sorted(ways), 2 if rng.random() < TWO_AT_ONCE else 1)
        if not set(services["gateway"]) <= set(targets):
            break
    return [(target, rng.choice(ways[target])) for target in targets]


@dataclass(slots=True)
class Soak:
    stack: Stack
    load: Load
    seed: int
    seconds: float
    kills: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        await self.load.during(self._strike_on())

    async def _strike_on(self) -> None:
        rng, end = random.Random(self.seed), time.monotonic() + self.seconds
        while time.monotonic() < end:
            faults = choose(rng, self.stack.state["services"])
            shown = " and ".join(f"{target} {number.name}" for target, number in faults)
            print(f"{end - time.monotonic():6.0f} s left: {shown}", flush=True)
            self.kills.update(number.name for _, number in faults)
            await strike(self.stack, faults, asyncio.sleep(rng.uniform(*CALM_S)))
            await wait_until_whole(self.stack)

    def report(self) -> str:
        outcomes = [answer.outcome for answer in self.load.answers]
        kills = ", ".join(f"{count} {name}" for name, count in sorted(self.kills.items()))
        return (
            f"soak: seed {self.seed}, {self.seconds:.0f} s; kills {self.kills.total()} ({kills}); "
            f"requests {len(outcomes)}, failures {len(self.load.failures)}, worst stall {self.load.worst_stall_s:.2f} s; "
            f"streams taken up at another gateway {sum(o.reconnects > 0 for o in outcomes)}, "
            f"requests sent again because their gateway died unanswered {sum(o.repeats > 0 for o in outcomes)}"
        )
