"""Which worker gets a request. Pure; randomness is passed in.

The unit of cost is one prompt token to be computed. A request sent to a worker waits for the prompt tokens
that are before it there and for its own that are not cached, and it shares every decode step with the
sequences that run there.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

# What one running sequence weighs against prompt tokens. On an 8B shape on one H200 a sequence adds about 30 us
# to every decode step that it shares, the time of 1.4 prompt tokens, and lives for hundreds of steps, of which the
# newcomer shares a part. bench/routing_replay.py (4 workers, 20 sessions/s) gives a mean TTFT of 21 to 23 ms from
# 8 to 256, 26 ms at 512, 38 ms at 2048 and 46 ms for least_loaded: it must be small against a prefix.
SEQUENCE_TOKENS = 64
# Costs so close are equal: the choice among them is random, or routers that see the same loads would all
# choose the same worker. Less than a sequence, so an idle worker is never overlooked.
NEAR_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Candidate:
    """A live worker with room. Loads count what this router has sent and the worker not yet reported."""

    worker_id: str
    num_sequences: int  # running and waiting there
    prefill_tokens: int  # of prompts, yet to be computed there
    cached_tokens: int = 0  # of this request's prompt


class Policy(Protocol):
    uses_cache: bool  # whether candidates must carry cached_tokens

    def choose(self, num_prompt_tokens: int, candidates: Sequence[Candidate]) -> Candidate:
        """One of the candidates, of which there is at least one."""


def load_cost(candidate: Candidate) -> float:
    return candidate.prefill_tokens + SEQUENCE_TOKENS * candidate.num_sequences


def cost(num_prompt_tokens: int, candidate: Candidate) -> float:
    """Uncached prefill plus load, in prompt tokens. At least one token is always computed."""
    return max(1, num_prompt_tokens - candidate.cached_tokens) + load_cost(candidate)


def _near_cheapest(candidates: Sequence[Candidate], costs: Sequence[float], rng: random.Random) -> Candidate:
    limit = min(costs) + NEAR_TOKENS
    near = [candidate for candidate, value in zip(candidates, costs, strict=True) if value <= limit]
    return near[0] if len(near) == 1 else rng.choice(near)


class CacheAware:
    """The least cost, where cached prompt tokens cost nothing."""

    uses_cache = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, num_prompt_tokens: int, candidates: Sequence[Candidate]) -> Candidate:
        costs = [cost(num_prompt_tokens, candidate) for candidate in candidates]
        return _near_cheapest(candidates, costs, self._rng)


class LeastLoaded:
    """The least load, whatever is cached where."""

    uses_cache = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, num_prompt_tokens: int, candidates: Sequence[Candidate]) -> Candidate:
        return _near_cheapest(candidates, [load_cost(c) for c in candidates], self._rng)


class RoundRobin:
    """Each in turn, by name, those without room skipped. Starts anywhere, so that routers do not march in step."""

    uses_cache = False

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._last: str | None = None

    def choose(self, num_prompt_tokens: int, candidates: Sequence[Candidate]) -> Candidate:
        if self._last is None:
            chosen = self._rng.choice(candidates)
        else:
            after = [c for c in candidates if c.worker_id > self._last]
            chosen = min(after or candidates, key=lambda c: c.worker_id)
        self._last = chosen.worker_id
        return chosen


def make_policy(name: str, rng: random.Random) -> Policy:
    """``--load_balance_method``: cache_aware, round_robin or least_loaded."""
    policies: dict[str, type[CacheAware] | type[LeastLoaded] | type[RoundRobin]] = {
        "cache_aware": CacheAware,
        "round_robin": RoundRobin,
        "least_loaded": LeastLoaded,
    }
    return policies[name](rng)
