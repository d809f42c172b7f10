"""What the control process knows of the engine's processes without a word of rank 0, which may be blocked."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from services.worker.processes import PROC, has_ended, is_killed, is_stopped, process_tree
from services.worker.runner.reports import read_reports

STOPPED = "a process of the engine was stopped by a signal"


class EngineWatch:
    """Looks at the processes of all ranks from their start on, and reads what they report.

    The death of one rank ends the others: their peers are gone, or rank 0 kills them, or the system does because
    rank 0 has ended. So what came first is the cause, and of several things seen at once it is told by these rules:
    rank 0's own word (it waits for the others and knows most), a rank that was killed, a rank that said why it ends.
    """

    def __init__(self, pid: int, reports: socket.socket, proc: Path = PROC) -> None:
        """``pid``: rank 0's. ``reports``: where ranks report; must not block."""
        self._pid, self._reports, self._proc = pid, reports, proc
        self._pids: dict[int, int] = {}  # by further rank
        self._failures: dict[int, str] = {}  # by rank, in the order told
        self._killed: int | None = None

    @property
    def has_lost_rank(self) -> bool:
        """Whether a further rank was seen killed from outside, before anything else was wrong."""
        return self._killed is not None

    def look(self) -> str:
        """Why the engine is of no further use; empty while nothing is wrong, or rank 0's end tells all."""
        self._read()
        self._find_killed()
        if has_ended(self._pid, self._proc):
            return ""
        if 0 in self._failures:
            return self._failures[0]
        if self._killed is not None:
            return f"rank {self._killed} was killed by signal {signal.SIGKILL:d}"
        if any(is_stopped(pid, self._proc) for pid in process_tree(self._pid, self._proc)):
            return STOPPED
        for rank, failure in self._failures.items():
            return f"rank {rank} failed: {failure}"
        for rank, pid in self._pids.items():
            if has_ended(pid, self._proc):
                return f"the process of rank {rank} has ended"
        return ""

    def _read(self) -> None:
        for report in read_reports(self._reports):
            if report.failure:
                self._failures.setdefault(report.rank, report.failure)
            else:
                self._pids[report.rank] = report.pid

    def _find_killed(self) -> None:
        if self._killed is not None or 0 in self._failures:
            return
        killed = [rank for rank, pid in self._pids.items() if is_killed(pid, self._proc)]
        # In this order: while rank 0 lives, nobody has killed the others on its account.
        if killed and not has_ended(self._pid, self._proc):
            self._killed = killed[0]
