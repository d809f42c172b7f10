"""What Linux tells of the engine's processes. Elsewhere they are taken to run."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

PROC = Path("/proc")
_STATE, _FLAGS, _EXIT_CODE = 0, 6, 49  # fields of /proc/PID/stat after the name: proc(5) counts them from 3
_PF_EXITING = 4  # include/linux/sched.h


def process_tree(pid: int, proc: Path = PROC) -> list[int]:
    """``pid`` and its children, theirs, and so on."""
    found, at = [pid], 0
    while at < len(found):
        with contextlib.suppress(OSError):
            for children in (proc / str(found[at]) / "task").glob("*/children"):
                found += map(int, children.read_text().split())
        at += 1
    return found


def is_stopped(pid: int, proc: Path = PROC) -> bool:
    """Whether a signal or a debugger has stopped the process: it lives and does nothing."""
    return _field(pid, _STATE, proc) in ("T", "t")


def has_ended(pid: int, proc: Path = PROC) -> bool:
    """Whether the process is gone, on its way there, or only waited for by its parent."""
    if not proc.exists():
        return False
    flags = _field(pid, _FLAGS, proc)
    return _field(pid, _STATE, proc) in ("", "Z", "X") or bool(int(flags or 0) & _PF_EXITING)


def is_killed(pid: int, proc: Path = PROC) -> bool:
    """Whether somebody has killed the process (SIGKILL), from its last moments on until its parent waited for it.

    Its files close, and its peers notice, before it is a zombie: seconds before, where a GPU's memory is given back.
    """
    code = _field(pid, _EXIT_CODE, proc)
    return bool(code) and int(code) & 0x7F == signal.SIGKILL


def _field(pid: int, number: int, proc: Path) -> str:
    """A field of what Linux tells of a process; empty when there is none."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return fields[number] if number < len(fields) else ""


def kill_group(pid: int) -> None:
    """Kills the processes of the group that ``pid`` leads, if any is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
