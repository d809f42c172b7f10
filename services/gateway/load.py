"""How much a gateway carries: HTTP exchanges from their first header on, and the bodies that they hold. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.common.errors import Unavailable

MAX_HELD_BYTES = 512 * 1024 * 1024  # of request bodies, from their first byte until they are answered


@dataclass(slots=True)
class Load:
    max_exchanges: int
    max_held_bytes: int = MAX_HELD_BYTES
    num_exchanges: int = 0
    held_bytes: int = 0

    @contextmanager
    def exchange(self) -> Iterator[Exchange]:
        """One request and its answer."""
        exchange = Exchange(self)
        self.num_exchanges += 1
        try:
            yield exchange
        finally:
            self.num_exchanges -= 1
            self.held_bytes -= exchange.held_bytes

    def check_room(self) -> None:
        """Raises Unavailable when there are too many exchanges, the one that asks among them."""
        if self.num_exchanges > self.max_exchanges:
            raise Unavailable(
                f"this gateway carries its {self.max_exchanges} requests (--max_connections)", retry_after_s=1
            )


@dataclass(slots=True)
class Exchange:
    load: Load
    held_bytes: int = 0

    def hold(self, size: int) -> None:
        """Counts bytes of the body that have come. Raises Unavailable when all bodies together are too much."""
        if self.load.held_bytes + size > self.load.max_held_bytes:
            limit = self.load.max_held_bytes
            raise Unavailable(f"this gateway holds request bodies of {limit} bytes already", retry_after_s=1)
        self.load.held_bytes += size
        self.held_bytes += size
