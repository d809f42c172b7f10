"""Who is let into the batch: there must be memory for it now, and by estimate at the peak."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.worker.cache import PrefixCache
from services.worker.scheduler.sequence import Sequence

# A sequence waits for a prefix that another one is computing when it would save at least this many tokens.
MIN_TOKENS_WORTH_WAITING = 256


@dataclass(frozen=True, slots=True)
class Limits:
    max_running: int  # slots
    max_step_tokens: int  # budget of a step: decode rows and prefill tokens
    max_chunk_tokens: int  # of one sequence in one step
    can_chunk: bool = True  # False: a prompt runs in one step, and waits until the budget has room for it
    conservativeness: float = 0.5  # share of a sequence's remaining output that admission reserves


def estimated_peak(sequences: Iterable[tuple[int, int]]) -> int:
    """The most tokens held at once, for (tokens held now, tokens still to come) of each sequence.

    All grow by one token a step, so when the sequence with r tokens to come ends, those that have at least as many
    to come hold r more than now, and the shorter ones have left. (LightLLM's router plans by the same estimate.)
    """
    peak = held = 0
    for count, (now, remaining) in enumerate(sorted(sequences, key=lambda s: -s[1]), start=1):
        held += now
        peak = max(peak, held + count * remaining)
    return peak


def has_room(
    sequence: Sequence, found: list[int], running: list[Sequence], cache: PrefixCache, limits: Limits
) -> bool:
    """Whether ``sequence`` fits beside ``running``, with ``found`` of its blocks in the cache."""
    pool, size = cache.pool, cache.block_size
    num_revived = sum(map(pool.is_evictable, found))
    num_new = cache.blocks_for(len(sequence.ids)) - len(found)
    if num_new > pool.num_free - num_revived:
        return False
    if not running:
        return True
    share = limits.conservativeness
    held = [(max(s.target, s.num_planned) - s.num_shared * size, _to_come(s, size, share)) for s in running]
    num_shared = len(found) - num_revived
    held.append((len(sequence.ids) - num_shared * size, _to_come(sequence, size, share)))
    # Blocks are given out whole: count half of one on top for each sequence.
    peak = estimated_peak(held) + len(held) * (size // 2)
    return peak <= pool.num_usable * size


def _to_come(sequence: Sequence, block_size: int, share: float) -> int:
    """Tokens that a sequence will likely add: a share of what it may, and never less than a block's worth."""
    remaining = sequence.last_position - max(sequence.num_planned, len(sequence.ids))
    return max(min(remaining, block_size), int(remaining * share))


def is_worth_waiting(
    sequence: Sequence, missing: list[bytes], computing: Mapping[bytes, Sequence], block_size: int
) -> bool:
    """Whether another sequence is about to publish enough of the blocks that this one misses.

    Choices of one request always share: the first computes the prompt, the others take its full blocks.
    """
    owner = computing.get(missing[0]) if missing else None
    if owner is None:
        return False
    if owner.request_id == sequence.request_id:
        return True
    wanted = -(-MIN_TOKENS_WORTH_WAITING // block_size)
    return len(missing) >= wanted and missing[wanted - 1] in computing
