"""The waiting line of one model: bounded, ordered, with deadlines. Pure: times are passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil, exp, inf, isclose

from services.router.heap import LazyHeap
from services.router.order import Order, make_order
from services.router.request import QueuedRequest

MAX_BYTES = 256 * 1024 * 1024  # of waiting messages; their packed ids may be held once more
# A tenant under its share enters a line that others filled, up to so many times --max_queue in all.
HARD_LIMIT = 2


@dataclass(slots=True)
class Line:
    """Who waits, and who is next.

    Requests that were given back by a worker, and those whose client is in mid-stream, go before all others:
    they were paid for and admitted before. Every operation is O(log n).
    """

    policy: str  # fcfs, fair or priority
    max_requests: int
    max_bytes: int = MAX_BYTES
    num_bytes: int = 0
    _order: Order = field(init=False)
    _front: LazyHeap[QueuedRequest] = field(default_factory=LazyHeap)
    _deadlines: LazyHeap[QueuedRequest] = field(default_factory=LazyHeap)
    _requests: dict[str, QueuedRequest] = field(default_factory=dict)
    _tenants: Counter[str] = field(default_factory=Counter)
    _weights: dict[str, float] = field(default_factory=dict)  # of tenants in the line
    _total_weight: float = 0.0
    _seq: int = 0

    def __post_init__(self) -> None:
        self._order = make_order(self.policy)

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[QueuedRequest]:
        """In no promised order."""
        return iter(self._requests.values())

    def get(self, request_id: str) -> QueuedRequest | None:
        return self._requests.get(request_id)

    def can_admit(self, request: QueuedRequest) -> bool:
        """Whether there is a place for a new request.

        Under ``fair`` a tenant that holds less than its weighted part of the places gets one even when others
        have filled the line. Later attempts were admitted before; to refuse them would lose them.
        """
        if request.attempt > 1:
            return True
        if self.num_bytes + len(request.data) > self.max_bytes:
            return False
        if len(self) < self.max_requests:
            return True
        if self.policy != "fair" or len(self) >= HARD_LIMIT * self.max_requests:
            return False
        total = self._total_weight - self._weights.get(request.tenant, 0.0) + request.weight
        share = self.max_requests * request.weight / total
        return self._tenants[request.tenant] < share

    def push(self, request: QueuedRequest) -> None:
        """Puts a request in its place. Whether there is room was asked before."""
        self._seq += 1
        request.seq = self._seq
        self._add(request)
        if request.is_resumed:
            self._front.set(request, (request.priority, request.seq))
        else:
            self._order.push(request)

    def put_back(self, request: QueuedRequest) -> None:
        """Returns a request that was popped to the front; its tenant has paid for it."""
        self._add(request)
        self._front.set(request, (request.priority, request.seq))

    def peek(self) -> QueuedRequest | None:
        return self._front.peek() or self._order.peek()

    def pop(self) -> QueuedRequest | None:
        request = self._front.pop() or self._order.pop()
        if request is not None:
            self._forget(request)
        return request

    def remove(self, request_id: str) -> QueuedRequest | None:
        request = self._requests.get(request_id)
        if request is not None:
            self._front.discard(request)
            self._order.discard(request)
            self._forget(request)
        return request

    def expire(self, now: float) -> list[QueuedRequest]:
        """Removes and returns those whose time is over."""
        expired = []
        while (request := self._deadlines.peek()) is not None and request.deadline <= now:
            self.remove(request.request_id)
            expired.append(request)
        return expired

    def _add(self, request: QueuedRequest) -> None:
        assert request.request_id not in self._requests, "one attempt of a request at a time"
        self._requests[request.request_id] = request
        self.num_bytes += len(request.data)
        self._tenants[request.tenant] += 1
        self._total_weight += request.weight - self._weights.get(request.tenant, 0.0)
        self._weights[request.tenant] = request.weight
        if request.deadline < inf:
            self._deadlines.set(request, (request.deadline,))

    def _forget(self, request: QueuedRequest) -> None:
        del self._requests[request.request_id]
        self.num_bytes -= len(request.data)
        self._deadlines.discard(request)
        self._tenants[request.tenant] -= 1
        if not self._tenants[request.tenant]:
            del self._tenants[request.tenant]
            weight = self._weights.pop(request.tenant)
            self._total_weight = self._total_weight - weight if self._weights else 0.0

    def check(self) -> None:
        """Asserts the invariants."""
        assert self.num_bytes == sum(len(r.data) for r in self)
        assert self._tenants == Counter(r.tenant for r in self)
        assert set(self._weights) == set(self._tenants)
        assert isclose(self._total_weight, sum(self._weights.values()), abs_tol=1e-6)
        assert set(self._deadlines) == {r for r in self if r.deadline < inf}
        assert (self.peek() is None) == (len(self) == 0)


@dataclass(slots=True)
class DrainRate:
    """How fast requests leave the line, as an average over about ``window_s``; gives Retry-After."""

    window_s: float = 10.0
    min_s: float = 1.0
    max_s: float = 60.0
    _weight: float = 0.0
    _at: float = 0.0

    def record(self, now: float) -> None:
        self._weight = self._decayed(now) + 1.0
        self._at = now

    def seconds_for(self, num_requests: int, now: float) -> int:
        """Whole seconds until so many have probably left, between ``min_s`` and ``max_s``."""
        rate = self._decayed(now) / self.window_s
        return ceil(min(self.max_s, max(self.min_s, num_requests / rate if rate > 0 else self.max_s)))

    def _decayed(self, now: float) -> float:
        return self._weight * exp(-max(0.0, now - self._at) / self.window_s)
