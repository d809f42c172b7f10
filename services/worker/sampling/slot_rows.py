"""Device rows for the few slots that need them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class SlotRows:
    """Hands rows of some device tensor to slots. Row 0 is nobody's: it holds the values of slots without a row."""

    def __init__(self, max_slots: int) -> None:
        self.row_of = np.zeros(max_slots + 1, np.int64)
        self.capacity = 1
        self._free: list[int] = []

    def take(self, slot: int) -> int:
        """The slot's row, a new one if it has none. `capacity` doubles when no row is free."""
        if not self.row_of[slot]:
            if not self._free:
                grown = max(4, 2 * self.capacity)
                self._free = list(range(grown - 1, self.capacity - 1, -1))
                self.capacity = grown
            self.row_of[slot] = self._free.pop()
        return int(self.row_of[slot])

    def release(self, slot: int) -> None:
        if self.row_of[slot]:
            self._free.append(int(self.row_of[slot]))
            self.row_of[slot] = 0

    def rows(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.row_of[slots]

    def check(self) -> None:
        """Asserts that every row but 0 is either free or held by exactly one slot."""
        held = self.row_of[self.row_of > 0].tolist()
        assert sorted(held + self._free) == list(range(1, self.capacity)), "rows lost or shared"
