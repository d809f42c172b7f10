"""Which gateways are alive, as far as this worker can tell."""

from __future__ import annotations

from services.common.liveness import GATEWAY_LEASES


class GatewayWatch:
    """Gateways whose requests are held here, and when each was last heard of.

    Silence proves a gateway's death only while this worker hears itself over the bus: with NATS away, or after this
    process was stopped, every gateway is silent and none may be given up. ``now`` is in seconds of any clock.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._seen_at: dict[str, float] = {}
        self._self_seen_at: float | None = None

    def on_own_beat(self, now: float) -> None:
        if self._self_seen_at is None or now - self._self_seen_at > self._lease_s:
            self._grant(now)
        self._self_seen_at = now

    def on_gateway(self, gateway_id: str, now: float) -> None:
        self._seen_at[gateway_id] = now

    def dead(self, holders: list[str], now: float) -> list[str]:
        """Those of ``holders`` that are dead. A gateway never heard of counts from the first call on."""
        if self._self_seen_at is None or now - self._self_seen_at > self._lease_s:
            self._grant(now)
            return []
        limit = now - GATEWAY_LEASES * self._lease_s
        found = [gateway for gateway in holders if self._seen_at.setdefault(gateway, now) < limit]
        for gateway in [g for g, at in self._seen_at.items() if at < limit]:
            del self._seen_at[gateway]
        return found

    def _grant(self, now: float) -> None:
        self._seen_at = dict.fromkeys(self._seen_at, now)
