"""Ends a listening socket without a reset for anybody who has connected to it."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct

_SO_ATTACH_FILTER = 26  # Linux, asm-generic/socket.h
_DROP_SYNS = (  # classic BPF over the TCP header: the packets that open a connection are dropped, all others pass
    (0x30, 0, 0, 13),  # load the flags
    (0x54, 0, 0, 0x02),  # SYN alone
    (0x15, 0, 1, 0x02),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFFFFFF),
)


def refuse_new(listener: socket.socket) -> None:
    """From now on nobody new gets into the backlog, and who is there stays.

    To close the socket at once would reset those whom the kernel has accepted and we have not: they believe to be
    connected and may have sent their request. Clients that try meanwhile try again by themselves a second later, and
    find the port closed. Does nothing where the kernel has no such filters.
    """
    code = b"".join(struct.pack("HBBI", *step) for step in _DROP_SYNS)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(_DROP_SYNS), ctypes.addressof(buffer))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def accept_all(listener: socket.socket) -> list[socket.socket]:
    """Everybody who waits in the backlog. ``listener`` does not block."""
    accepted: list[socket.socket] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            accepted.append(listener.accept()[0])
    return accepted
