"""``shoal up --detach``: the same `up` in the background, reported on until it is ready."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

from services.cli import rundir
from services.cli.rundir import RunDir


def start_detached(argv: list[str]) -> int:
    """Starts `up` in a session of its own; shows what it says until it is ready or has ended."""
    root = rundir.state_root(os.environ)
    root.mkdir(parents=True, exist_ok=True)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    output = root / f"up-{name}.log"
    env = dict(os.environ, SHOAL_RUN_NAME=name, SHOAL_DETACH="0")
    command = [sys.executable, "-m", "services.cli", "up", *argv, "--detach", "false"]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    return _follow(process, output, RunDir(root / f"run-{name}"))


def _follow(process: subprocess.Popen[bytes], output: Path, run: RunDir) -> int:
    with output.open(encoding="utf-8", errors="replace") as file:
        while True:
            code = process.poll()
            state = run.load()
            is_ready = state is not None and state.phase == rundir.READY
            sys.stdout.write(file.read())
            sys.stdout.flush()
            if code is not None:
                output.unlink(missing_ok=True)
                return code
            if is_ready:
                print(f"Running in the background as {run.path.name.removeprefix('run-')}.")
                return 0
            time.sleep(0.1)
