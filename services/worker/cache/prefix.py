"""Prefixes found again: sequences name their full blocks by hash chain, and later ones reuse them."""

from __future__ import annotations

from collections.abc import Sequence as Ordered

from services.common.blockhash import hash_block
from services.worker.cache.pool import BlockPool


class HashChain:
    """The names of one sequence's full blocks, computed once each as its ids become known."""

    __slots__ = ("_block_size", "_root", "names")

    def __init__(self, root: bytes, block_size: int) -> None:
        self._root, self._block_size = root, block_size
        self.names: list[bytes] = []

    def extend(self, ids: list[int], num_ids: int) -> None:
        """Names the full blocks among the first ``num_ids`` of the sequence's ids."""
        size, names = self._block_size, self.names
        parent = names[-1] if names else self._root
        for end in range((len(names) + 1) * size, num_ids + 1, size):
            parent = hash_block(parent, ids[end - size : end])
            names.append(parent)


class CacheChanges:
    """What entered and left the cache since it was last asked, net: no name is in both lists."""

    def __init__(self) -> None:
        self._stored: dict[bytes, None] = {}
        self._removed: dict[bytes, None] = {}

    def on_stored(self, name: bytes) -> None:
        if name in self._removed:
            del self._removed[name]
        else:
            self._stored[name] = None

    def on_removed(self, name: bytes) -> None:
        if name in self._stored:
            del self._stored[name]
        else:
            self._removed[name] = None

    def take(self) -> tuple[bytes, bytes]:
        """Names stored and names removed, 16 bytes each, one after the other."""
        if not self._stored and not self._removed:
            return b"", b""
        changes = b"".join(self._stored), b"".join(self._removed)
        self._stored.clear()
        self._removed.clear()
        return changes


class PrefixCache:
    """The block pool seen by names. Sequences hold references; the cache itself holds none."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.changes = CacheChanges()
        self.pool = BlockPool(num_blocks, self.changes.on_removed)

    def match(self, names: Ordered[bytes]) -> list[int]:
        """The blocks of the longest cached prefix of ``names``. They are not retained yet."""
        blocks: list[int] = []
        for name in names:
            block = self.pool.find(name)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_matchable(self, num_ids: int) -> int:
        """The most blocks that a sequence of so many ids may take from the cache: one id is always computed."""
        return (num_ids - 1) // self.block_size

    def blocks_for(self, num_ids: int) -> int:
        return -(-num_ids // self.block_size)

    def publish(self, block: int, name: bytes) -> None:
        """A full block is computed (or will be, before any later step reads it): from now on it is found."""
        if self.pool.name(block, name):
            self.changes.on_stored(name)

    def check(self, holders: list[list[int]] | None = None) -> None:
        self.pool.check(holders)
