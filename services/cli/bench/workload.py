"""What is asked of the server. Pure: a workload and a seed give the same prompts and arrival times everywhere."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Workload:
    """Lengths are tokens. ``rate`` is requests/s with Poisson arrivals; 0 keeps ``concurrency`` in flight always.

    With ``num_prefixes`` each prompt begins with one of so many shared prefixes of ``prefix_len`` tokens, and
    ``prompt_len`` counts what follows.
    """

    name: str
    prompt_len: int
    output_len: int
    num_requests: int
    concurrency: int
    rate: float = 0.0
    num_prefixes: int = 0
    prefix_len: int = 0


# The rows of DESIGN's budget table.
WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("c1", 128, 512, 4, 1),
        Workload("c32", 1024, 256, 128, 32),
        Workload("c256", 1024, 256, 768, 256),
        Workload("prefix", 128, 64, 512, 64, num_prefixes=8, prefix_len=2048),
        Workload("long", 7000, 128, 32, 8),
    )
}


@dataclass(frozen=True, slots=True)
class Planned:
    """One request. ``at_s`` counts from the start of the run; 0 where requests follow each other."""

    prompt_ids: list[int]
    output_len: int
    at_s: float = 0.0


def plan(workload: Workload, seed: int, vocab_size: int) -> list[Planned]:
    """All requests of a run. Low ids are spared where there are others: they are special tokens in many models."""
    rng = random.Random(seed)
    lowest = min(100, vocab_size // 2)

    def ids(length: int) -> list[int]:
        return rng.choices(range(lowest, vocab_size), k=length)

    prefixes = [ids(workload.prefix_len) for _ in range(workload.num_prefixes)]
    planned, at_s = [], 0.0
    for i in range(workload.num_requests):
        head = prefixes[i % len(prefixes)] if prefixes else []
        planned.append(Planned([*head, *ids(workload.prompt_len)], workload.output_len, at_s))
        at_s += rng.expovariate(workload.rate) if workload.rate else 0.0
    return planned


def shares(planned: list[Planned], concurrency: int, num_processes: int) -> list[tuple[list[Planned], int]]:
    """The requests and the concurrency of each client process; never more processes than requests in flight."""
    count = max(1, min(num_processes, concurrency, len(planned)))
    return [(planned[i::count], concurrency // count + (i < concurrency % count)) for i in range(count)]
