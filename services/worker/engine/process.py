"""What Linux tells of the engine's processes. Elsewhere they are taken to run."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

RANK_MODULE = b"services.worker.runner.rank"


def process_tree(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """``pid`` and its children, theirs, and so on."""
    found, at = [pid], 0
    while at < len(found):
        with contextlib.suppress(OSError):
            for children in (proc / str(found[at]) / "task").glob("*/children"):
                found += map(int, children.read_text().split())
        at += 1
    return found


def is_stopped(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a signal or a debugger has stopped the process: it lives and does nothing."""
    return _state(pid, proc) in ("T", "t")


def has_ended(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether the process is gone, or is only waited for by its parent."""
    return proc.exists() and _state(pid, proc) in ("", "Z", "X")


def further_ranks(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """The processes of ranks above 0, of which ``pid`` is rank 0."""
    found = []
    for child in process_tree(pid, proc)[1:]:
        with contextlib.suppress(OSError):
            if RANK_MODULE in (proc / str(child) / "cmdline").read_bytes().split(b"\0"):
                found.append(child)
    return found


def _state(pid: int, proc: Path) -> str:
    """The letter by which Linux tells what a process does; empty when there is none."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]


def kill_group(pid: int) -> None:
    """Kills the processes of the group that ``pid`` leads, if any is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
