"""What this machine has to run models on."""

from __future__ import annotations

import os
import shutil
import subprocess

from services.cli.plan import Machine
from services.common.cores import usable_cores


def visible_gpus() -> tuple[str, ...]:
    """NVIDIA GPUs by the names that CUDA_VISIBLE_DEVICES takes; those it names already, where it is set."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(part.strip() for part in chosen.split(",") if part.strip() and part.strip() != "-1")
    if not shutil.which("nvidia-smi"):
        return ()
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(done.stdout.split()) if done.returncode == 0 else ()


def this_machine() -> Machine:
    return Machine(usable_cores(), visible_gpus())
