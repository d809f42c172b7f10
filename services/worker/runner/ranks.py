"""The processes of ranks above 0: started with a socket each, over which they get every plan.

Ranks never negotiate: rank 0 decides, the others do the same to their part of the model. Nothing goes back but
"loaded", or the reason why a rank ends. A rank ends when its socket closes, and rank 0 notices a rank that ended.
Rank 0 may be blocked when that happens, so ranks also tell the control process why they end (reports.py).
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
from collections.abc import Sequence
from dataclasses import asdict

import msgpack

from services.worker import errors
from services.worker.errors import RankKilled, RunnerError, WorkerError
from services.worker.processes import is_killed
from services.worker.runner.config import RunnerConfig
from services.worker.runner.reports import Report, Reports

_LENGTH = struct.Struct("<Q")
# How long close() lets the ranks end by themselves.
CLOSE_SECONDS = 5.0
POLL_SECONDS = 20e-6
# How long after a failure a rank is waited for that was killed: its peers' words can arrive before its end is seen.
GRACE_SECONDS, GRACE_LOOKS = 0.5, 50
RANK = (sys.executable, "-m", "services.worker.runner.rank")
LOADED = "loaded"
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

    def __init__(
        self, config: RunnerConfig, store_port: int, reports: Reports, command: Sequence[str] = RANK
    ) -> None:
        """Starts the processes: `command`, with the rank and the numbers of its link and of the reports' socket added.

        store_port: where rank 0's TCPStore listens on 127.0.0.1.
        """
        self._processes: list[subprocess.Popen[bytes]] = []
        self._links: list[socket.socket] = []
        self._words: dict[int, WorkerError] = {}  # by rank, why it ends
        for rank in range(1, config.tp):
            ours, theirs = socket.socketpair()
            with theirs:
                fds = [end.fileno() for end in (theirs, reports.link) if end is not None]
                process = subprocess.Popen([*command, *map(str, (rank, *fds))], pass_fds=fds)
            self._processes.append(process)
            self._links.append(ours)
            reports.send(Report(rank, pid=process.pid))
            send(ours, msgpack.packb((asdict(config), rank, store_port)))

    def wait_until_loaded(self) -> None:
        """Waits for a word from each rank. Raises the error that a rank met, or RunnerError if one died."""
        waiting = dict(zip(self._links, self._ranks, strict=True))
        while waiting:
            for link in select.select([*waiting], (), ())[0]:
                self._expect_loaded(waiting.pop(link))

    def check_loading(self) -> None:
        """Raises the error that another rank met, after something failed here that this would explain."""
        for _ in range(GRACE_LOOKS):
            for link in select.select(self._links, (), (), GRACE_SECONDS / GRACE_LOOKS)[0]:
                self._expect_loaded(self._links.index(link) + 1)

    def _expect_loaded(self, rank: int) -> None:
        if not self._hears_loaded(rank):
            raise self._cause([rank])

    def _hears_loaded(self, rank: int) -> bool:
        """Takes in a rank's word, or that its link was closed. If the word is why it ends, it is kept."""
        # Where it left a plan unread, the first look gives ECONNRESET, and only the next one what it had said.
        link = self._links[rank - 1]
        message = receive(link) or receive(link)
        if message is None:
            return False
        kind, text = msgpack.unpackb(message)
        if kind == LOADED:
            return True
        self._words[rank] = getattr(errors, kind, RunnerError)(f"rank {rank} failed: {text}")
        return False

    def broadcast(self, plan: bytes) -> None:
        for rank, link in zip(self._ranks, self._links, strict=True):
            try:
                send(link, plan)
            except OSError:
                raise self._cause([rank]) from None

    def check(self, grace_s: float = 0.0) -> None:
        """Raises the reason if a rank has ended: one that runs sends nothing, so nothing can be read from it.

        grace_s: how long to wait for that, where something else failed already that a rank's end would explain.
        """
        ended = select.select(self._links, (), (), grace_s)[0]
        if ended:
            raise self._cause([self._links.index(link) + 1 for link in ended])

    def pause(self) -> None:
        """Lets a moment pass between two looks at a step."""
        time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
        self.close()

    def close(self) -> None:
        for link in self._links:
            link.close()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(CLOSE_SECONDS)
            if process.poll() is None:
                process.kill()
                process.wait()

    @property
    def _ranks(self) -> range:
        return range(1, len(self._links) + 1)

    def _cause(self, ended: list[int]) -> WorkerError:
        """Why there is no going on, when `ended` are the ranks whose end was seen first.

        A rank that was killed makes others raise, so it is looked for before anyone's word is taken.
        """
        for _ in range(GRACE_LOOKS):
            killed = [rank for rank in self._ranks if self._is_killed(rank)]
            if killed:
                return RankKilled(f"rank {killed[0]} was killed by signal {signal.SIGKILL:d}")
            if all(process.poll() is not None for process in self._processes):
                break
            time.sleep(GRACE_SECONDS / GRACE_LOOKS)
        for rank in ended:
            if rank not in self._words:
                self._hears_loaded(rank)
            if rank in self._words:
                return self._words[rank]
        code = self._processes[ended[0] - 1].poll()
        how = "still ending" if code is None else f"exit code {code}"
        return RunnerError(f"rank {ended[0]} is gone, {how}")

    def _is_killed(self, rank: int) -> bool:
        process = self._processes[rank - 1]
        return process.poll() == -signal.SIGKILL or (process.returncode is None and is_killed(process.pid))


def report(link: socket.socket, error: WorkerError | None) -> None:
    """A rank's word to rank 0: loaded, or why it ends."""
    word = (LOADED, "") if error is None else (type(error).__name__, str(error))
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
