"""Engines that died while they ran a request: chance, or the request itself?"""

from __future__ import annotations

from dataclasses import dataclass

MAX_CRASHES = 3  # in a row, without progress between them; a worker runs the last one's start by itself
MAX_CRASHES_IN_ALL = 10  # a request that gets on a little each time must not take engines with it for ever
PROGRESS_IDS = 32  # with so many new ids a request has got on


@dataclass(slots=True)
class Crashes:
    """Counts those in which the request was a suspect. ``num_ids`` is what it has of all choices together."""

    in_all: int = 0
    _in_a_row: int = 0
    _num_ids: int = 0  # at the last one

    def in_a_row(self, num_ids: int) -> int:
        return 0 if num_ids - self._num_ids >= PROGRESS_IDS else self._in_a_row

    def note(self, num_ids: int) -> None:
        """One more."""
        self._in_a_row = self.in_a_row(num_ids) + 1
        self._num_ids = num_ids
        self.in_all += 1

    @property
    def are_too_many(self) -> bool:
        return self._in_a_row >= MAX_CRASHES or self.in_all >= MAX_CRASHES_IN_ALL
