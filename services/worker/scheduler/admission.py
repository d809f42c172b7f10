"""Who is let into the batch: there must be memory for it now, and by estimate at the peak."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from services.worker.cache import PrefixCache
from services.worker.runner.shapes import SMALL_MIXED_STEP, mixed_step_tokens
from services.worker.scheduler.sequence import Sequence

# Prompt tokens that a step takes however many sequences decode.
MIN_PREFILL_TOKENS = 256
# A sequence waits for a prefix that another one is computing when it would save at least this many tokens.
MIN_TOKENS_WORTH_WAITING = 256


@dataclass(frozen=True, slots=True)
class Limits:
    max_running: int  # slots
    max_step_tokens: int  # budget of a step: decode rows and prefill tokens
    max_chunk_tokens: int  # of one sequence in one step
    can_chunk: bool = True  # False: a prompt runs in one step, and waits until the budget has room for it
    conservativeness: float = 0.5  # share of a sequence's remaining output that admission reserves
    max_mixed_tokens: int = 0  # budget of a step in which sequences decode; 0: by how many do, at least:
    least_mixed_tokens: int = SMALL_MIXED_STEP

    def prefill_budget(self, num_decodes: int, num_sequences: int) -> int:
        """Prompt tokens that a step with so many decode rows may hold, where so many sequences run or wait.

        Decodes never leave prompts without any.
        """
        room = self.max_step_tokens - num_decodes
        if not num_decodes or not self.can_chunk:
            return room
        to_decode = min(num_sequences, self.max_running)
        budget = self.max_mixed_tokens or mixed_step_tokens(num_decodes, to_decode, self.least_mixed_tokens)
        return min(room, max(budget - num_decodes, MIN_PREFILL_TOKENS))


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


class MemoryEstimate:
    """What the running sequences will hold at their peak; made for one step, and told of whom that step lets in."""

    def __init__(self, running: list[Sequence], cache: PrefixCache, limits: Limits) -> None:
        self._cache, self._share = cache, limits.conservativeness
        self._held: list[tuple[int, int]] = []  # (tokens held now, tokens still to come)
        self._at_most = 0  # if all reached their ends together
        for sequence in running:
            self.add(sequence)

    def add(self, sequence: Sequence) -> None:
        """One more runs. A block that others used before it was admitted counts with them."""
        now = max(sequence.target, sequence.num_planned) - sequence.num_shared * self._cache.block_size
        self._add(now, _to_come(sequence, self._cache.block_size, self._share))

    def _add(self, now: int, to_come: int) -> None:
        # Blocks are given out whole: count half of one on top for each sequence.
        now += self._cache.block_size // 2
        self._held.append((now, to_come))
        self._at_most += now + to_come

    def has_room(self, sequence: Sequence, found: list[int]) -> bool:
        """Whether a waiting sequence fits too, with ``found`` of its blocks in the cache."""
        pool, size = self._cache.pool, self._cache.block_size
        num_revived = sum(map(pool.is_evictable, found))
        num_new = self._cache.blocks_for(len(sequence.ids)) - len(found)
        if num_new > pool.num_free - num_revived:
            return False
        if not self._held:
            return True
        now = len(sequence.ids) - (len(found) - num_revived) * size + size // 2
        to_come = _to_come(sequence, size, self._share)
        capacity = pool.num_usable * size
        if self._at_most + now + to_come <= capacity:
            return True  # no need to look for the peak
        return estimated_peak([*self._held, (now, to_come)]) <= capacity


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
