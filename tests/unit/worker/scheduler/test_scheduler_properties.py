"""Random arrivals, cancels and shortage of memory: ids are right, invariants hold, all blocks come back."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.worker.scheduler.harness import Harness


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    depth=st.integers(0, 3),
    num_blocks=st.integers(12, 60),
    block_size=st.sampled_from([1, 2, 4, 7]),
    max_running=st.integers(1, 10),
    max_step_tokens=st.integers(1, 40),
    max_chunk_tokens=st.integers(1, 24),
    conservativeness=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_any_history_ends_with_the_right_ids(
    seed: int,
    depth: int,
    num_blocks: int,
    block_size: int,
    max_running: int,
    max_step_tokens: int,
    max_chunk_tokens: int,
    conservativeness: float,
) -> None:
    rng = random.Random(seed)
    h = Harness(
        num_blocks=num_blocks,
        block_size=block_size,
        max_running=max_running,
        max_step_tokens=max_step_tokens,
        max_chunk_tokens=max_chunk_tokens,
        conservativeness=conservativeness,
        depth=depth,
    )
    prefixes = [[rng.randrange(97) for _ in range(rng.randrange(12))] for _ in range(3)]
    fits = min(48, (num_blocks - 1) * block_size)
    cancelled: set[int] = set()
    for _ in range(rng.randrange(5, 60)):
        if rng.random() < 0.4:
            prompt = [*rng.choice(prefixes), *(rng.randrange(97) for _ in range(rng.randrange(1, 9)))]
            prompt = prompt[: fits - 1]
            max_tokens = rng.randrange(1, fits - len(prompt) + 1)
            request = rng.choice(["", f"shared{rng.randrange(3)}"])
            scored = rng.choice([-1, -1, 2])
            stops = frozenset(rng.sample(range(97), 6)) if rng.random() < 0.5 else frozenset()
            for choice in range(rng.choice([1, 1, 3])):
                h.add(
                    prompt,
                    max_tokens,
                    request_id=request,
                    seed=choice,
                    priority=rng.randrange(3),
                    stop_ids=stops,
                    prompt_logprobs=-1 if choice else scored,
                    is_suspect=rng.random() < 0.2,
                )
        if rng.random() < 0.1 and h.sequences:
            victim = rng.choice(h.sequences)
            if victim.handle not in h.finished:
                cancelled.add(victim.handle)
                h.scheduler.cancel(victim)
                h.scheduler.check()
        h.step()
    h.run()
    for sequence in h.sequences:
        emitted, expected = h.emitted[sequence.handle], h.expected(sequence)
        if sequence.handle in cancelled:
            assert emitted == expected[: len(emitted)]
        else:
            assert emitted == expected
            h.assert_scored(sequence)
