"""In what order waiting requests leave the line. Pure.

``fair`` is start-time fair queueing (Goyal, Vin, Cheng 1996) over tenants: each tenant has a virtual time that
advances by tokens / weight of what it was given, and the tenant whose time is lowest goes next. One that was
away resumes at the present virtual time, so it gains nothing by waiting and loses nothing by others' backlog.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from services.router.heap import LazyHeap
from services.router.request import QueuedRequest


class Order(Protocol):
    """Decides who is next. Requests carry a ``seq`` that rises with arrival."""

    def push(self, request: QueuedRequest) -> None: ...

    def discard(self, request: QueuedRequest) -> None: ...

    def peek(self) -> QueuedRequest | None: ...

    def pop(self) -> QueuedRequest | None: ...


class KeyOrder:
    """First come, first served; with ``by_priority``, lower priority values before."""

    def __init__(self, *, by_priority: bool = False) -> None:
        self._by_priority = by_priority
        self._heap: LazyHeap[QueuedRequest] = LazyHeap()

    def push(self, request: QueuedRequest) -> None:
        self._heap.set(request, (request.priority if self._by_priority else 0, request.seq))

    def discard(self, request: QueuedRequest) -> None:
        self._heap.discard(request)

    def peek(self) -> QueuedRequest | None:
        return self._heap.peek()

    def pop(self) -> QueuedRequest | None:
        return self._heap.pop()


@dataclass(slots=True)
class _Tenant:
    waiting: LazyHeap[QueuedRequest] = field(default_factory=LazyHeap)  # by priority, then arrival
    time: float = 0.0  # virtual: where its next request starts, in tokens of weight 1


class FairOrder:
    """Weighted fair share per tenant, by tokens; priority and arrival order within a tenant."""

    def __init__(self) -> None:
        self._tenants: dict[str, _Tenant] = {}
        self._waiting: LazyHeap[str] = LazyHeap()  # tenants with requests, by virtual time
        self._away: LazyHeap[str] = LazyHeap()  # tenants without, whose time is ahead of the present
        self._now = 0.0  # virtual

    def push(self, request: QueuedRequest) -> None:
        tenant = self._tenants.setdefault(request.tenant, _Tenant(time=self._now))
        if not tenant.waiting:
            self._away.discard(request.tenant)
            self._set_time(tenant, request.tenant, max(self._now, tenant.time))
        tenant.waiting.set(request, (request.priority, request.seq))

    def discard(self, request: QueuedRequest) -> None:
        tenant = self._tenants.get(request.tenant)
        if tenant is not None and request in tenant.waiting:
            tenant.waiting.discard(request)
            self._leave_if_empty(tenant, request.tenant)

    def peek(self) -> QueuedRequest | None:
        name = self._waiting.peek()
        return None if name is None else self._tenants[name].waiting.peek()

    def pop(self) -> QueuedRequest | None:
        name = self._waiting.peek()
        if name is None:
            return None
        tenant = self._tenants[name]
        request = tenant.waiting.pop()
        assert request is not None, "a tenant among the waiting has requests"
        self._now = tenant.time
        self._set_time(tenant, name, tenant.time + request.cost_tokens / request.weight)
        self._leave_if_empty(tenant, name)
        self._forget_past()
        return request

    def _set_time(self, tenant: _Tenant, name: str, time: float) -> None:
        tenant.time = time
        self._waiting.set(name, (time,))

    def _leave_if_empty(self, tenant: _Tenant, name: str) -> None:
        if not tenant.waiting:
            self._waiting.discard(name)
            self._away.set(name, (tenant.time,))

    def _forget_past(self) -> None:
        """Drops tenants that owe nothing; all of them once nobody waits."""
        while (name := self._away.peek()) is not None:
            if self._waiting and self._tenants[name].time > self._now:
                return
            self._away.pop()
            del self._tenants[name]

    def check(self) -> None:
        """Asserts the invariants."""
        assert set(self._tenants) == set(self._waiting) | set(self._away)
        for name, tenant in self._tenants.items():
            assert bool(tenant.waiting) == (name in self._waiting) != (name in self._away)


def make_order(policy: str) -> Order:
    """``--schedule_policy``: fcfs, fair or priority."""
    return FairOrder() if policy == "fair" else KeyOrder(by_priority=policy == "priority")
