"""What services.kvstore.stream_log uses of Redis, in virtual time: may be away, slow, flushed and restarted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

from redis.exceptions import ConnectionError as RedisConnectionError

from services.kvstore.stream_log import WRITE_SCRIPT


class VirtualRedis:
    """One server, for any number of clients. ``delay_s`` is that of every answer."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.is_up = True
        self.delay_s = 0.001
        self._run_id = ""
        self._values: dict[str, str] = {}
        self._hashes: dict[str, dict[bytes, bytes]] = {}
        self._expires_at: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Empty, as one without persistence is."""
        self._run_id = f"{self._rng.getrandbits(160):040x}"
        self.is_up = True
        self.flush()

    def flush(self) -> None:
        self._values.clear()
        self._hashes.clear()
        self._expires_at.clear()

    async def eval(self, script: str, num_keys: int, *words: str | bytes | int) -> bytes:
        """WRITE_SCRIPT, line by line."""
        assert script == WRITE_SCRIPT
        await self._answer()
        keys, args = words[:num_keys], words[num_keys:]
        name = str(keys[0])
        if not self._values.get(name, "").startswith(self._run_id):
            self._values[name] = self._run_id + str(args[1])
        if self._values[name] == args[0]:
            for i, key in enumerate(map(str, keys[1:])):
                digest, data, kept_ms = args[3 + 3 * i : 6 + 3 * i]
                if data:
                    self._hash(key).setdefault(bytes(digest), bytes(data))  # type: ignore[arg-type]
                if key in self._hashes:
                    self._expires_at[key] = self._now() + int(kept_ms) / 1000
        return self._values[name].encode()

    async def hgetall(self, key: str | bytes) -> dict[bytes, bytes]:
        await self._answer()
        return dict(self._hash(_text(key)))

    async def pttl(self, key: str | bytes) -> int:
        await self._answer()
        return round(1000 * (self._expires_at.get(_text(key), 0.0) - self._now()))

    async def scan_iter(self, pattern: str, count: int) -> AsyncIterator[bytes]:
        await self._answer()
        for key in list(self._hashes):
            if key.startswith(pattern.removesuffix("*")):
                yield key.encode()

    def _hash(self, key: str) -> dict[bytes, bytes]:
        if self._expires_at.get(key, float("inf")) <= self._now():
            del self._expires_at[key], self._hashes[key]
        return self._hashes.setdefault(key, {})

    async def _answer(self) -> None:
        await asyncio.sleep(self.delay_s)
        if not self.is_up:
            raise RedisConnectionError("away")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode()
