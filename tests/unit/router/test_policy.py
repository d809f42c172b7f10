import random
from collections import Counter

import pytest

from services.router.policy import SEQUENCE_TOKENS, Candidate, cost, make_policy


def choose(name, candidates, *, prompt=1000, times=1, seed=0):
    policy = make_policy(name, random.Random(seed))
    return [policy.choose(prompt, candidates).worker_id for _ in range(times)]


def test_cost_is_uncached_prompt_plus_prefill_and_sequences_before():
    candidate = Candidate("w", num_sequences=3, prefill_tokens=200, cached_tokens=600)
    assert cost(1000, candidate) == 400 + 200 + 3 * SEQUENCE_TOKENS


def test_a_cached_prefix_attracts_and_load_repels():
    warm, idle = Candidate("warm", 4, 0, cached_tokens=960), Candidate("idle", 0, 0)
    assert choose("cache_aware", [warm, idle]) == ["warm"]
    busy = Candidate("warm", 16, 0, cached_tokens=960)
    assert choose("cache_aware", [busy, idle]) == ["idle"]


def test_waiting_prefill_counts():
    assert choose("cache_aware", [Candidate("a", 0, 8000), Candidate("b", 2, 0)]) == ["b"]


def test_least_loaded_ignores_the_cache():
    assert choose("least_loaded", [Candidate("warm", 2, 0, 1000), Candidate("idle", 0, 0)]) == ["idle"]


@pytest.mark.parametrize("name", ["cache_aware", "least_loaded"])
def test_an_idle_worker_is_preferred_to_one_with_a_single_sequence(name):
    candidates = [Candidate("busy", 1, 0), Candidate("idle", 0, 0)]
    assert set(choose(name, candidates, times=50)) == {"idle"}


@pytest.mark.parametrize("name", ["cache_aware", "least_loaded"])
def test_routers_that_see_the_same_loads_do_not_herd(name):
    candidates = [Candidate(f"w{i}", 2, 8 * i) for i in range(4)]
    chosen = Counter(choose(name, candidates, seed=router)[0] for router in range(400))
    assert set(chosen) == {c.worker_id for c in candidates}
    assert max(chosen.values()) < 150


def test_choices_repeat_exactly_under_the_same_seed():
    candidates = [Candidate(f"w{i}", 0, 0) for i in range(8)]
    assert choose("cache_aware", candidates, times=50, seed=3) == choose(
        "cache_aware", candidates, times=50, seed=3
    )


def test_round_robin_visits_all_and_skips_those_without_room():
    policy = make_policy("round_robin", random.Random(0))
    workers = [Candidate(f"w{i}", 0, 0) for i in range(3)]
    turns = [policy.choose(1, workers).worker_id for _ in range(6)]
    assert turns[:3] == turns[3:]
    assert set(turns) == {"w0", "w1", "w2"}
    policy.choose(1, workers[:1])
    assert policy.choose(1, [workers[0], workers[2]]).worker_id == "w2"
