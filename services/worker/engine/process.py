"""What Linux tells of the engine's processes. Elsewhere they are taken to run."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


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
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in "Tt"


def kill_group(pid: int) -> None:
    """Kills the processes of the group that ``pid`` leads, if any is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
