"""Which worker's prefix cache holds which blocks: one dictionary entry per block, one bit per worker. Pure.

Removing a worker does not touch its entries: its bit is retired and masked out of every answer, and ``sweep``
clears it in slices later. A worker that clears its cache gets a new bit in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

MAX_BLOCKS = 4_000_000  # about 600 MB; workers' own caches bound the index long before


class PrefixIndex:
    """Block hash -> set of workers. Everything is O(blocks named)."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._holders: dict[bytes, int] = {}  # block hash -> bit mask of workers
        self._bits: dict[str, int] = {}  # live workers
        self._names: dict[int, str] = {}
        self._live = 0  # mask of all live workers
        self._retired = 0  # mask of bits that entries may still carry
        self.num_ignored = 0  # blocks not stored because the index was full

    def __len__(self) -> int:
        return len(self._holders)

    @property
    def needs_sweep(self) -> bool:
        return self._retired != 0

    def store(self, worker_id: str, hashes: Iterable[bytes]) -> None:
        """The worker holds these blocks now."""
        bit, holders = self._bit(worker_id), self._holders
        for name in hashes:
            mask = holders.get(name)
            if mask is not None:
                holders[name] = mask | bit
            elif len(holders) < self._max_blocks:
                holders[name] = bit
            else:
                self.num_ignored += 1

    def remove(self, worker_id: str, hashes: Iterable[bytes]) -> None:
        """The worker holds these blocks no longer."""
        bit, holders = self._bits.get(worker_id, 0), self._holders
        keep = ~(bit | self._retired)
        for name in hashes:
            mask = holders.get(name)
            if mask is not None:
                if mask & keep:
                    holders[name] = mask & keep
                else:
                    del holders[name]

    def clear(self, worker_id: str) -> None:
        """The worker holds nothing, because it dropped its cache or is gone."""
        bit = self._bits.pop(worker_id, 0)
        if bit:
            del self._names[bit]
            self._live &= ~bit
            self._retired |= bit

    def match(self, hashes: Iterable[bytes]) -> dict[str, int]:
        """How many leading blocks of the chain each worker holds; workers that hold none are left out.

        Takes no more hashes than it needs: the first that nobody holds is the last.
        """
        found: dict[str, int] = {}
        holding, depth = self._live, 0
        for name in hashes:
            still = holding & self._holders.get(name, 0)
            if still != holding and depth:
                found.update((worker, depth) for worker in self._workers(holding & ~still))
            holding = still
            if not holding:
                return found
            depth += 1
        if depth:
            found.update((worker, depth) for worker in self._workers(holding))
        return found

    def sweep(self, batch: int = 10_000) -> Iterator[None]:
        """Clears retired bits, yielding after every ``batch`` blocks so that others can run between."""
        sweeping = self._retired
        names = iter(list(self._holders))
        while chunk := list(islice(names, batch)):
            for name in chunk:
                mask = self._holders.get(name, 0)
                if mask & sweeping:
                    if mask & ~sweeping:
                        self._holders[name] = mask & ~sweeping
                    else:
                        del self._holders[name]
            yield
        self._retired &= ~sweeping

    def _bit(self, worker_id: str) -> int:
        bit = self._bits.get(worker_id)
        if bit is None:
            used = self._live | self._retired
            bit = ~used & (used + 1)  # the lowest that is free
            self._bits[worker_id], self._names[bit] = bit, worker_id
            self._live |= bit
        return bit

    def _workers(self, mask: int) -> Iterator[str]:
        while mask:
            bit = mask & -mask
            yield self._names[bit]
            mask ^= bit

    def check(self) -> None:
        """Asserts the invariants."""
        assert self._live & self._retired == 0
        assert self._live == sum(self._bits.values()) == sum(self._names)
        assert {name: bit for bit, name in self._names.items()} == self._bits
        assert all(mask and mask & ~(self._live | self._retired) == 0 for mask in self._holders.values())
        assert len(self._holders) <= self._max_blocks
