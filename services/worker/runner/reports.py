"""A rank's words to the process that supervises all of them, past rank 0, which may be blocked.

One datagram each: all ranks write to the same socket. Nothing waits for a reader, and nothing depends on one. No torch.
"""

from __future__ import annotations

import contextlib
import socket
from typing import NamedTuple

import msgpack

MAX_REASON = 4000  # characters
_MAX_BYTES = 1 << 16


class Report(NamedTuple):
    """Rank 0 tells the process of a further rank that it started; any rank tells why it ends."""

    rank: int
    pid: int = 0
    """Of a rank that was started."""
    failure: str = ""
    """Why a rank ends."""


class Reports:
    """A rank's end. Without a socket nobody supervises, and nothing is sent."""

    def __init__(self, link: socket.socket | None = None) -> None:
        self.link = link
        if link is not None:
            link.setblocking(False)

    def send(self, report: Report) -> None:
        if self.link is not None:
            with contextlib.suppress(OSError):  # the supervisor is gone, and takes us along
                self.link.send(msgpack.packb(report._replace(failure=report.failure[:MAX_REASON])))


def read_reports(link: socket.socket) -> list[Report]:
    """The supervisor's end: what has arrived at a socket that does not block."""
    reports = []
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while data := link.recv(_MAX_BYTES):
            reports.append(Report(*msgpack.unpackb(data)))
    return reports
