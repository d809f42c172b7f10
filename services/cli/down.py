"""``shoal down``: stops a run of `up` and waits until it is gone."""

from __future__ import annotations

import os
import signal
import time

from services.cli import rundir
from services.cli.arguments import Arguments
from services.cli.rundir import RunState


def main(argv: list[str]) -> int:
    arguments = Arguments(prog="./shoal down", description="Stop what `up` started.")
    arguments.add_run_choice()
    arguments.add_argument("--all", action="store_true", help="every run on this machine")
    arguments.add_argument(
        "--now", action="store_true", help="end running requests instead of finishing them"
    )
    flags = arguments.parse(argv)
    root = rundir.state_root(os.environ)
    rundir.remove_stale(root)
    runs = rundir.live_runs(root) if flags.all else [rundir.choose_run(root, flags.run)]
    for run in runs:
        _stop(run, now=flags.now)
        (root / f"up-{run.name}.log").unlink(missing_ok=True)
    return 0


def _stop(run: RunState, *, now: bool) -> None:
    print(f"Stopping {run.name} ({' '.join(run.gateways)})", flush=True)
    os.kill(run.pid, signal.SIGTERM)
    if now:
        time.sleep(0.2)
        os.kill(run.pid, signal.SIGTERM)
    while run.is_alive():
        time.sleep(0.05)
    print("Stopped.")
