"""The blocks of the KV pool: who uses which, and which may be taken."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable


class OutOfBlocks(Exception):
    """More blocks were asked for than are free or evictable. A caller checks ``num_free`` first."""


class BlockPool:
    """Blocks 1 .. num_blocks - 1; block 0 is the runner's scratch and is never handed out.

    A block is in one of three states: *used* (references > 0), *evictable* (no references, but named: its KV may
    be wanted again) or *free*. A name is a block hash; it stays with the block until the block is evicted, and
    ``on_evicted(name)`` tells who keeps an index. Eviction is in the order of the last use.
    """

    def __init__(self, num_blocks: int, on_evicted: Callable[[bytes], None] = lambda name: None) -> None:
        if num_blocks < 2:
            raise ValueError(f"a pool needs at least 2 blocks, not {num_blocks}")
        self.num_blocks = num_blocks
        self._on_evicted = on_evicted
        self._refs = [0] * num_blocks
        self._names: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._free = list(range(num_blocks - 1, 0, -1))  # a stack: low ids first
        self._evictable: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def num_usable(self) -> int:
        return self.num_blocks - 1

    @property
    def num_free(self) -> int:
        """Blocks that allocate() can give: free and evictable ones."""
        return len(self._free) + len(self._evictable)

    @property
    def num_used(self) -> int:
        return self.num_usable - self.num_free

    def allocate(self, count: int) -> list[int]:
        """``count`` blocks with one reference each and no name. Raises OutOfBlocks and then changes nothing."""
        if count > self.num_free:
            raise OutOfBlocks(f"{count} blocks asked for, {self.num_free} of {self.num_usable} free")
        blocks = []
        for _ in range(count):
            block = self._free.pop() if self._free else self._evict()
            self._refs[block] = 1
            blocks.append(block)
        return blocks

    def _evict(self) -> int:
        block, _ = self._evictable.popitem(last=False)
        name = self._names[block]
        assert name is not None
        self._names[block] = None
        del self._block_of[name]
        self._on_evicted(name)
        return block

    def retain(self, blocks: Iterable[int]) -> None:
        """One more reference to each; the blocks are used or evictable."""
        for block in blocks:
            if self._refs[block] == 0:
                del self._evictable[block]
            self._refs[block] += 1

    def release(self, blocks: list[int]) -> None:
        """One reference less to each. ``blocks`` is in a sequence's order: its tail is evicted before its head."""
        for block in reversed(blocks):
            refs = self._refs[block] - 1
            assert refs >= 0, f"block {block} released more often than retained"
            self._refs[block] = refs
            if refs == 0:
                if self._names[block] is None:
                    self._free.append(block)
                else:
                    self._evictable[block] = None

    def name(self, block: int, name: bytes) -> bool:
        """Gives a used block its name. False when another block has it: that one stays the one found."""
        if name in self._block_of:
            return False
        assert self._refs[block] > 0, f"block {block} is not in use"
        assert self._names[block] is None, f"block {block} has a name already"
        self._names[block] = name
        self._block_of[name] = block
        return True

    def find(self, name: bytes) -> int | None:
        return self._block_of.get(name)

    def is_evictable(self, block: int) -> bool:
        return block in self._evictable

    def references(self, block: int) -> int:
        return self._refs[block]

    def names(self) -> Iterable[bytes]:
        """The names of all blocks that can be found."""
        return self._block_of.keys()

    def check(self, holders: Iterable[Iterable[int]] | None = None) -> None:
        """Asserts the invariants; ``holders`` are the block lists of everyone who holds references."""
        free, evictable = set(self._free), set(self._evictable)
        used = {block for block in range(1, self.num_blocks) if self._refs[block]}
        assert len(free) == len(self._free), "a block is free twice"
        assert len(free) + len(evictable) + len(used) == self.num_usable, "a block is in two states"
        assert free | evictable | used == set(range(1, self.num_blocks)), "a block is in no state"
        assert self._refs[0] == 0, "block 0 was handed out"
        assert all(self._names[block] is None for block in free), "a free block has a name"
        assert all(self._names[block] is not None for block in evictable), "an evictable block has no name"
        num_named = self.num_blocks - self._names.count(None)
        assert num_named == len(self._block_of), "a name is not in the index"
        assert all(self._names[block] == name for name, block in self._block_of.items()), "the index is wrong"
        if holders is not None:
            counts = [0] * self.num_blocks
            for blocks in holders:
                for block in blocks:
                    counts[block] += 1
            assert counts == self._refs, "references and holders differ"
