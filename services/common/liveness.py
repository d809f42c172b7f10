"""Who has fallen silent, and whether the bus can be believed about it. Pure: times are passed in."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

# Own beats may be this many intervals late before silence says nothing about others any more.
TRUSTED_INTERVALS = 2.2
# A gateway that has been silent for so many leases is gone for good: routers and workers free its requests.
GATEWAY_LEASES = 3


@dataclass(slots=True)
class Liveness:
    """Last signs of life by key.

    A service subscribes to its own heartbeat: that is its test of the bus. While its beats do not come back,
    nobody counts as silent; after they have, everybody gets a whole lease to be heard.
    """

    heartbeat_s: float
    lease_s: float
    _seen: dict[Hashable, float] = field(default_factory=dict)
    _own_seen_at: float = float("-inf")
    _trusted_since: float = float("inf")

    def saw_own_beat(self, now: float) -> None:
        if not self.is_bus_trusted(now):
            self._trusted_since = now
        self._own_seen_at = now

    def is_bus_trusted(self, now: float) -> bool:
        return now - self._own_seen_at <= TRUSTED_INTERVALS * self.heartbeat_s

    def saw(self, key: Hashable, now: float) -> None:
        self._seen[key] = now

    def saw_first(self, key: Hashable, now: float) -> None:
        """Starts the lease of somebody who was mentioned but may never have been heard."""
        self._seen.setdefault(key, now)

    def forget(self, key: Hashable) -> None:
        self._seen.pop(key, None)

    def silent(self, now: float, leases: float = 1.0) -> list[Hashable]:
        """Those not heard for so many leases on a bus that works. They stay known until forgotten."""
        if not self.is_bus_trusted(now):
            return []
        latest = now - leases * self.lease_s
        return [key for key, seen in self._seen.items() if max(seen, self._trusted_since) < latest]
