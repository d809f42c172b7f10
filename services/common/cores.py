"""The processor's cores, and how many of them a model that runs on them may take."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota: Path = CGROUP_QUOTA) -> int:
    """Cores that this process may use: in a container, by its processors or by its share of time, fewer than there are."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed_us, period_us = quota.read_text(encoding="utf-8").split()
        return max(1, min(cores, int(allowed_us) // int(period_us)))
    except (OSError, ValueError, ZeroDivisionError):  # no such limit: "max", or no control groups
        return cores


def threads_per_rank(cores: int, ranks: int) -> int:
    """Leaves a core to the other services: threads that wait in a loop for one that has no core cost far more than
    they give."""
    return max(1, (cores - 1) // ranks)
