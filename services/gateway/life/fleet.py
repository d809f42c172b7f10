"""Who is alive, as heartbeats tell, and whether the bus can be believed about who is not."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.common.lifecycle import Timing
from services.common.liveness import TRUSTED_INTERVALS
from services.common.messages.events import READY, STOPPED, Heartbeat

FOLLOWED = ("router", "worker", "detokenizer")  # nothing can be served without one of each


@dataclass(slots=True)
class Member:
    beat: Heartbeat
    seen_at: float


@dataclass(slots=True)
class Fleet:
    """Live routers, workers and detokenizers of one model, by the loop's clock. Pure: times are passed in.

    The gateway's own heartbeat is its test of the bus. While it does not come back, nobody is declared dead;
    after it has come back everybody has one full lease to be heard.
    """

    model: str
    timing: Timing
    rng: random.Random
    _members: dict[tuple[str, str], Member] = field(default_factory=dict)
    _own_seen_at: float = float("-inf")
    _trusted_since: float = float("inf")

    def on_heartbeat(self, beat: Heartbeat, now: float) -> bool:
        """Takes a heartbeat. True when what its sender held before is gone: it stopped, or restarted."""
        if beat.service == "worker" and beat.model != self.model:
            return False
        key = (beat.service, beat.instance_id)
        known = self._members.get(key)
        if beat.state == STOPPED:
            return self._members.pop(key, None) is not None
        if known is not None and beat.epoch < known.beat.epoch:
            return False  # delayed, from before its restart
        self._members[key] = Member(beat, now)
        return known is not None and known.beat.epoch != beat.epoch

    def on_own_beat(self, now: float) -> None:
        if not self.is_bus_trusted(now):
            self._trusted_since = now
        self._own_seen_at = now

    def is_bus_trusted(self, now: float) -> bool:
        """Whether own heartbeats come back, so that the silence of others means something."""
        return now - self._own_seen_at <= TRUSTED_INTERVALS * self.timing.heartbeat_s

    def is_expired(self, seen_at: float, now: float) -> bool:
        """Whether something last heard of at ``seen_at`` has been silent for a lease on a bus that works."""
        since = max(seen_at, self._trusted_since)
        return self.is_bus_trusted(now) and now - since > self.timing.lease_s

    def remove_expired(self, now: float) -> list[tuple[str, str]]:
        """Forgets who fell silent; returns (service, id) of each."""
        gone = [key for key, member in self._members.items() if self.is_expired(member.seen_at, now)]
        for key in gone:
            del self._members[key]
        return gone

    def is_live(self, service: str, instance_id: str) -> bool:
        return (service, instance_id) in self._members

    def is_ready(self, service: str, instance_id: str) -> bool:
        member = self._members.get((service, instance_id))
        return member is not None and member.beat.state == READY

    def ready(self, service: str) -> list[Heartbeat]:
        return [m.beat for (kind, _), m in self._members.items() if kind == service and m.beat.state == READY]

    def last_heard(self, service: str) -> str:
        """The one that takes work and was heard last; "" for none."""
        found = [
            (m.seen_at, name)
            for (kind, name), m in self._members.items()
            if kind == service and m.beat.state == READY
        ]
        return max(found, default=(0.0, ""))[1]

    def pick_detokenizer(self, avoid: Iterable[str] = ()) -> str:
        """A live one that takes work, at random; one of ``avoid`` only when there is no other; "" for none."""
        ids = sorted(beat.instance_id for beat in self.ready("detokenizer"))
        preferred = [name for name in ids if name not in set(avoid)]
        return self.rng.choice(preferred or ids) if ids else ""

    def max_request_tokens(self) -> int:
        """The longest request that some live worker can hold; 0 when none has said."""
        return max(
            (beat.worker.max_request_tokens for beat in self.ready("worker") if beat.worker), default=0
        )

    def missing(self) -> str:
        """Which service nothing can be served without is not there; empty when all are."""
        for service in FOLLOWED:
            if not self.ready(service):
                return f"no live {service}"
        return ""
