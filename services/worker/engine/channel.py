"""Messages over a socket pair: length, kind, body. Nothing that is read here is ever executed."""

from __future__ import annotations

import select
import socket
import struct
from typing import Any

from services.common.errors import DecodeError
from services.common.messages.codec import decode, encode
from services.worker.engine.messages import KINDS

HEADER = struct.Struct("<IB")  # bytes of the body, index in KINDS
MAX_BODY = 256 * 1024 * 1024
_KIND_OF = {cls: index for index, cls in enumerate(KINDS)}


class ChannelClosed(Exception):
    """The other process is gone."""


def pack(message: Any) -> bytes:
    body = encode(message)
    return HEADER.pack(len(body), _KIND_OF[type(message)]) + body


def read_header(header: bytes | bytearray) -> tuple[int, type]:
    """(length of the body, its type). Raises DecodeError."""
    length, kind = HEADER.unpack(header)
    if length > MAX_BODY or kind >= len(KINDS):
        raise DecodeError(f"the engine's channel carries a message of kind {kind} and {length} bytes")
    return length, KINDS[kind]


class Channel:
    """Rank 0's end. Sending blocks when the control process does not read: that is the back-pressure."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        link.setblocking(True)
        self._received = bytearray()

    def send(self, message: Any) -> None:
        try:
            self._link.sendall(pack(message))
        except OSError as error:
            raise ChannelClosed(str(error)) from error

    def poll(self, timeout_s: float) -> list[Any]:
        """The messages that have arrived; waits up to ``timeout_s`` for the first. Raises ChannelClosed."""
        messages = self._take()
        while not messages and select.select([self._link], [], [], timeout_s)[0]:
            try:
                data = self._link.recv(1 << 20)
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            if not data:
                raise ChannelClosed("the control process is gone")
            self._received += data
            messages = self._take()
        return messages

    def close(self) -> None:
        self._link.close()

    def _take(self) -> list[Any]:
        messages: list[Any] = []
        received, at = self._received, 0
        while len(received) - at >= HEADER.size:
            length, cls = read_header(received[at : at + HEADER.size])
            end = at + HEADER.size + length
            if end > len(received):
                break
            messages.append(decode(cls, bytes(received[at + HEADER.size : end])))
            at = end
        del received[:at]
        return messages
