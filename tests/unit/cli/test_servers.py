"""What `up` needs before it starts a server."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import ClassVar

import pytest

from services.cli import servers


class Forgetful:
    """A socket of a system that hands out its lowest free port again and again, as some machines do."""

    held: ClassVar[set[int]] = set()

    def __enter__(self) -> Forgetful:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.held.discard(self.port)

    def bind(self, address: tuple[str, int]) -> None:
        self.port = next(port for port in range(50_000, 60_000) if port not in self.held)
        self.held.add(self.port)

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self.port


def test_no_two_get_the_same_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_given", set())
    monkeypatch.setattr(servers.socket, "socket", Forgetful)
    assert [servers.free_port() for _ in range(3)] == [50_000, 50_001, 50_002]
    assert not Forgetful.held


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", servers.free_port())) as listening:
        assert listening.getsockname()[1]
