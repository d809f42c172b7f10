"""Who calls, and how much they may: API keys, tenants, limits per key. Pure: times are passed in."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.common.errors import ConfigError, RateLimited, Unauthorized


@dataclass(slots=True)
class Allowance:
    """A bucket that refills evenly over a minute. ``per_minute`` 0: no limit."""

    per_minute: int
    level: float = field(init=False)
    _filled_at: float = 0.0

    def __post_init__(self) -> None:
        self.level = float(self.per_minute)

    def refill(self, now: float) -> None:
        gained = (now - self._filled_at) * self.per_minute / 60.0
        self.level = min(self.level + max(gained, 0.0), float(self.per_minute))
        self._filled_at = now

    def wait_for(self, amount: float) -> float:
        """Seconds until ``amount`` is there."""
        return max(amount - self.level, 0.0) * 60.0 / self.per_minute


@dataclass(slots=True)
class Caller:
    """One API key's owner. Without keys there is one, nameless, caller."""

    tenant: str = ""
    weight: float = 1.0
    requests: Allowance = field(default_factory=lambda: Allowance(0))
    tokens: Allowance = field(default_factory=lambda: Allowance(0))
    max_running: int = 0  # 0: no limit
    running: int = 0

    @property
    def cache_salt(self) -> str:
        """Keeps the prefix caches of tenants apart: nobody can probe another's prompts by timing."""
        return hashlib.blake2b(self.tenant.encode(), digest_size=12).hexdigest() if self.tenant else ""

    def check_concurrency(self) -> None:
        if self.max_running and self.running >= self.max_running:
            raise RateLimited(
                f"this key may have {self.max_running} requests running at once (--limit_concurrency)",
                retry_after_s=1,
            )

    def charge_request(self, now: float) -> None:
        """Takes one request, or raises RateLimited with the time to wait."""
        if not self.requests.per_minute:
            return
        self.requests.refill(now)
        if self.requests.level < 1:
            raise RateLimited(
                f"this key may send {self.requests.per_minute} requests a minute (--limit_requests_per_minute)",
                retry_after_s=self.requests.wait_for(1),
            )
        self.requests.level -= 1

    def charge_prompt(self, count: int, now: float) -> None:
        """Takes a prompt's tokens if the minute's allowance is not used up; it may go below nothing once."""
        if not self.tokens.per_minute:
            return
        self.tokens.refill(now)
        if self.tokens.level <= 0:
            raise RateLimited(
                f"this key may use {self.tokens.per_minute} tokens a minute (--limit_tokens_per_minute)",
                retry_after_s=self.tokens.wait_for(1),
            )
        self.tokens.level -= count

    def charge_output(self, count: int) -> None:
        if self.tokens.per_minute:
            self.tokens.level -= count


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Per key; 0: none."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    concurrency: int = 0


class Keys:
    """The keys of a deployment. Only digests are kept, and every one is compared, in constant time.

    ``salt`` goes into the names of tenants that have none; it is the same for all gateways of a deployment.
    """

    def __init__(self, entries: Iterable[str], limits: KeyLimits, salt: str = "") -> None:
        self._callers: list[tuple[bytes, Caller]] = []
        for entry in entries:
            key, tenant, weight = _parse(entry)
            self._callers.append((_digest(key), _caller(tenant or _name_of(key, salt), weight, limits)))
        self._anonymous = _caller("", 1.0, limits)

    def find(self, authorization: str) -> Caller:
        """The owner of ``Authorization: Bearer KEY``. Raises Unauthorized."""
        if not self._callers:
            return self._anonymous
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized("an API key is required: Authorization: Bearer KEY")
        digest = _digest(key.strip())
        found: Caller | None = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise Unauthorized("the API key is not known")
        return found


def _caller(tenant: str, weight: float, limits: KeyLimits) -> Caller:
    return Caller(
        tenant,
        weight,
        Allowance(limits.requests_per_minute),
        Allowance(limits.tokens_per_minute),
        limits.concurrency,
    )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _parse(entry: str) -> tuple[str, str, float]:
    """``key``, ``key=tenant`` or ``key=tenant:weight``. Without a tenant: an empty one."""
    key, _, owner = entry.partition("=")
    tenant, _, weight_text = owner.partition(":")
    try:
        weight = float(weight_text) if weight_text else 1.0
    except ValueError:
        weight = 0.0
    if not key or not 0 < weight < 1e6:
        raise ConfigError(
            "--api_keys: each entry is key, key=tenant or key=tenant:weight, with a weight over 0"
        )
    return key, tenant, weight


def _name_of(key: str, salt: str) -> str:
    """The tenant of a key without one. Logs show it, so it is made slow to try keys against it: some 40 ms each."""
    secret = key.encode("utf-8", "surrogateescape")
    return "key-" + hashlib.scrypt(secret, salt=salt.encode(), n=1 << 14, r=8, p=1, dklen=6).hex()
