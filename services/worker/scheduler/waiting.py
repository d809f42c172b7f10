"""The sequences that wait for a place in the batch."""

from __future__ import annotations

import heapq

from services.worker.scheduler.sequence import Sequence, State


class WaitingQueue:
    """In order of (priority, arrival). Cancelled sequences are skipped when they come up.

    ``hold`` sets a sequence aside because another one is computing the prefix that it needs; ``unhold`` puts all
    of those back, in their old places.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], Sequence]] = []
        self._held: list[Sequence] = []
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    @property
    def num_held(self) -> int:
        return sum(s.state is State.WAITING for s in self._held)

    def push(self, sequence: Sequence) -> None:
        sequence.state = State.WAITING
        self._num_waiting += 1
        heapq.heappush(self._heap, (sequence.order, sequence))

    def head(self) -> Sequence | None:
        while self._heap:
            sequence = self._heap[0][1]
            if sequence.state is State.WAITING:
                return sequence
            heapq.heappop(self._heap)
        return None

    def pop(self) -> Sequence:
        """Takes the head out; call after head()."""
        self._num_waiting -= 1
        return heapq.heappop(self._heap)[1]

    def hold(self) -> None:
        """Sets the head aside."""
        self._held.append(heapq.heappop(self._heap)[1])

    def unhold(self) -> None:
        for sequence in self._held:
            if sequence.state is State.WAITING:
                heapq.heappush(self._heap, (sequence.order, sequence))
        self._held.clear()

    def forget(self) -> None:
        """A waiting sequence has left the WAITING state and will be skipped."""
        self._num_waiting -= 1

    def sequences(self) -> list[Sequence]:
        """For checks and figures, in no order."""
        found = [s for _, s in self._heap if s.state is State.WAITING]
        return found + [s for s in self._held if s.state is State.WAITING]

    def check(self) -> None:
        assert self._num_waiting == len(self.sequences()), "the count of waiting sequences is off"
