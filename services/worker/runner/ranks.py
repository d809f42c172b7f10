"""The processes of ranks above 0: started with a socket each, over which they get every plan.

Ranks never negotiate: rank 0 decides, the others do the same to their part of the model. Nothing goes back but
"loaded", or the reason why a rank ends. A rank ends when its socket closes, and rank 0 notices a rank that ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import asdict

import msgpack

from services.worker import errors
from services.worker.errors import RankKilled, RunnerError, WorkerError
from services.worker.runner.config import RunnerConfig

_LENGTH = struct.Struct("<Q")
# How long close() lets the ranks end by themselves.
CLOSE_SECONDS = 5.0
POLL_SECONDS = 20e-6
_PR_SET_PDEATHSIG = 1  # prctl(2)


def send(link: socket.socket, data: bytes) -> None:
    link.sendall(_LENGTH.pack(len(data)) + data)


def receive(link: socket.socket) -> bytes | None:
    """The next message, or None if the other end is gone."""
    header = _receive_exactly(link, _LENGTH.size)
    return None if header is None else _receive_exactly(link, _LENGTH.unpack(header)[0])


def _receive_exactly(link: socket.socket, length: int) -> bytes | None:
    data = bytearray(length)
    view, have = memoryview(data), 0
    while have < length:
        try:
            got = link.recv_into(view[have:])
        except ConnectionError:
            return None
        if not got:
            return None
        have += got
    return bytes(data)


class RankProcesses:
    """Rank 0's hold on ranks 1 .. tp - 1."""

    def __init__(self, config: RunnerConfig, store_port: int) -> None:
        """Starts the processes. store_port: where rank 0's TCPStore listens on 127.0.0.1."""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._links: list[socket.socket] = []
        for rank in range(1, config.tp):
            ours, theirs = socket.socketpair()
            with theirs:
                command = [sys.executable, "-m", "services.worker.runner.rank", str(theirs.fileno())]
                self._processes.append(subprocess.Popen(command, pass_fds=(theirs.fileno(),)))
            self._links.append(ours)
            send(ours, msgpack.packb((asdict(config), rank, store_port)))

    def wait_until_loaded(self) -> None:
        """Waits for a word from each rank. Raises the error that a rank met, or RunnerError if one died."""
        for rank, link in enumerate(self._links, start=1):
            message = receive(link)
            if message is None:
                raise RunnerError(f"rank {rank} ended while loading, {self._exit_of(rank)}")
            kind, text = msgpack.unpackb(message)
            if kind != "loaded":
                raise getattr(errors, kind, RunnerError)(text)

    def broadcast(self, plan: bytes) -> None:
        for rank, link in enumerate(self._links, start=1):
            try:
                send(link, plan)
            except OSError:
                raise self._end_of(rank) from None

    def check(self) -> None:
        """Raises RunnerError if a rank has ended: one that runs sends nothing, so nothing can be read from it."""
        ended, _, _ = select.select(self._links, (), (), 0)
        for link in ended:
            raise self._end_of(self._links.index(link) + 1)

    def pause(self) -> None:
        """Lets a moment pass between two looks at a step."""
        time.sleep(POLL_SECONDS)

    def close(self) -> None:
        for link in self._links:
            link.close()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(CLOSE_SECONDS)
            if process.poll() is None:
                process.kill()
                process.wait()

    def _end_of(self, rank: int) -> RunnerError:
        """What a rank said last, or else how it ended."""
        link = self._links[rank - 1]
        # Where it left a plan unread, the first look gives ECONNRESET, and only the next one what it had said.
        message = receive(link) or receive(link)
        if message is None:
            ended = self._exit_of(rank)
            is_killed = self._processes[rank - 1].returncode == -signal.SIGKILL
            return (RankKilled if is_killed else RunnerError)(f"rank {rank} is gone, {ended}")
        return RunnerError(f"rank {rank} failed: {msgpack.unpackb(message)[1]}")

    def _exit_of(self, rank: int) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"exit code {self._processes[rank - 1].wait(1.0)}"
        return "still ending"


def report(link: socket.socket, error: WorkerError | None) -> None:
    """A rank's word to rank 0: loaded, or why it ends."""
    word = ("loaded", "") if error is None else (type(error).__name__, str(error))
    send(link, msgpack.packb(word))


def die_with_parent() -> None:
    """Linux: the process that started this one takes it along when it is killed, even in the middle of a load.

    A closed socket is not enough: a rank whose GPU waits for one that is gone may never come to read it.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def end_process(code: int) -> None:
    """Ends a rank at once: an interpreter shutting down would wait for a collective that cannot finish."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
