"""A heap whose items can be removed and given a new key."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=Hashable)
Key = tuple[Any, ...]

_SLACK = 64  # removed items kept around before the first clean-up


class LazyHeap(Generic[T]):
    """Smallest key first; equal keys in the order in which they were set. Items are never compared.

    Every operation is O(log n), amortised over the clean-up of removed items.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Key, int, T]] = []
        self._entries: dict[T, tuple[Key, int]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: T) -> bool:
        return item in self._entries

    def __iter__(self) -> Iterator[T]:
        """In no order."""
        return iter(self._entries)

    def key(self, item: T) -> Key:
        return self._entries[item][0]

    def set(self, item: T, key: Key) -> None:
        """Puts an item in, or gives it another key."""
        self._count += 1
        self._entries[item] = (key, self._count)
        heapq.heappush(self._heap, (key, self._count, item))
        self._clean_up()

    def discard(self, item: T) -> None:
        if self._entries.pop(item, None) is not None:
            self._clean_up()

    def peek(self) -> T | None:
        while self._heap:
            key, count, item = self._heap[0]
            if self._entries.get(item) == (key, count):
                return item
            heapq.heappop(self._heap)
        return None

    def pop(self) -> T | None:
        item = self.peek()
        if item is not None:
            heapq.heappop(self._heap)
            del self._entries[item]
        return item

    def _clean_up(self) -> None:
        if len(self._heap) > 2 * len(self._entries) + _SLACK:
            self._heap = [(key, count, item) for item, (key, count) in self._entries.items()]
            heapq.heapify(self._heap)
