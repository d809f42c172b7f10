"""Tests of the engine on a GPU. They need torch, triton, numpy and msgpack, and nothing of the project's conftest:

python3 -m pytest -c /dev/null --rootdir . --confcutdir=tests/gpu -p no:cacheprovider tests/gpu -q
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_apart() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs a script of this folder in a process of its own: a CUDA error lasts as long as the process."""

    def run(script: str, *words: str, timeout_s: float) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, str(Path(__file__).with_name(script)), *words],
            cwd=REPO,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    return run
