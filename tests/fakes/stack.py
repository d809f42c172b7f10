"""A whole system as a user starts it: ``shoal up`` in a process of its own, with everything under it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.fakes.servers import die_with_parent

REPO = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 120.0
HEARD_TIMEOUT_S = 30.0  # for everyone to be heard

# A worker's threads wait for each other in a busy loop wherever another process runs on one of their cores: beside other
# tests a token takes ten times as long.
ONE_THREAD = {"SHOAL_THREADS": "1"}

# Two of each service, so that one can be lost.
TWO_OF_EACH = ("--workers", "2", "--gateways", "2", "--routers", "2", "--detokenizers", "2")


class Stack:
    """A context manager around one run of `up`. ``flags`` are its options; ports are free ones."""

    def __init__(self, directory: Path, model_dir: Path, *flags: str) -> None:
        self.directory, self.state_root = directory, directory / "state"
        self._output = directory / "up.log"
        self._command = [
            sys.executable, "-m", "services.cli", "up", "--port", "0", "--model_dir", str(model_dir), *flags,
        ]  # fmt: skip
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("SHOAL_")}
        # Where packages are is not ours to say: only that the repository comes first.
        paths = os.pathsep.join(filter(None, (str(REPO), os.environ.get("PYTHONPATH"))))
        self.env |= ONE_THREAD | {"SHOAL_STATE_DIR": str(self.state_root), "PYTHONPATH": paths}
        self.process: subprocess.Popen[bytes] | None = None
        self.state: dict[str, Any] = {}

    def start(self) -> None:
        """Returns when `up` says that all is ready; fails with what it said otherwise."""
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                self._command,
                env=self.env,
                cwd=REPO,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=die_with_parent,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            self.state = self._read_state()
            if self.state.get("phase") == "ready":
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.output()
                self.kill()
                raise AssertionError(f"`up` did not get ready:\n{said}\n{self.logs()}")
            time.sleep(0.05)

    def _read_state(self) -> dict[str, Any]:
        for path in self.state_root.glob("run-*/state.json"):
            return dict(json.loads(path.read_text()))
        return {}

    def output(self) -> str:
        """What `up` printed so far."""
        return self._output.read_text(errors="replace")

    def logs(self, num_lines: int = 25) -> str:
        """The end of every service's log."""
        parts = []
        for path in sorted(self.state_root.glob("run-*/logs/*.log")):
            tail = path.read_text(errors="replace").splitlines()[-num_lines:]
            parts.append(f"--- {path.name}\n" + "\n".join(tail))
        return "\n".join(parts)

    @property
    def base_urls(self) -> list[str]:
        """The gateways, without /v1."""
        return list(self.state["gateways"])

    @property
    def model(self) -> str:
        return str(self.state["model_name"])

    def cli(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Another command of `shoal`, which finds this run."""
        return subprocess.run(
            [sys.executable, "-m", "services.cli", *words],
            env=self.env,
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def services(self) -> dict[str, dict[str, Any]]:
        """Every service, by id, as `status` shows it.

        `status` listens for two beats and a half; a service that was held up for longer is waited for.
        """
        expected = {name for names in self.state["services"].values() for name in names}
        deadline = time.monotonic() + HEARD_TIMEOUT_S
        while True:
            rows = {row["id"]: row for row in json.loads(self.cli("status", "--json").stdout)["services"]}
            if expected <= rows.keys():
                return rows
            assert time.monotonic() < deadline, f"not heard: {expected - rows.keys()}"

    def trace(
        self, request_id: str, is_whole: Callable[[list[dict[str, Any]]], bool]
    ) -> list[dict[str, Any]]:
        """The events that `trace` shows of a request once they are all there: it waits a fixed while for answers."""
        deadline = time.monotonic() + HEARD_TIMEOUT_S
        while True:
            done = self.cli("trace", request_id, "--json")
            events = json.loads(done.stdout or "[]")
            if done.returncode == 0 and is_whole(events):
                return list(events)
            assert time.monotonic() < deadline, f"{done.stderr}{events}"

    def pid(self, instance_id: str) -> int:
        """The process of a service, or of "nats" and "redis", as it runs now."""
        for child in self.processes():
            with suppress(psutil.NoSuchProcess):  # it has ended since it was listed
                if instance_id in ("nats", "redis"):
                    is_it = f"{instance_id}-server" in child.name()
                else:
                    own_id = child.environ().get("SHOAL_INSTANCE_ID")
                    is_it = own_id == instance_id and child.ppid() == self.up_pid
                if is_it:
                    return int(child.pid)
        raise AssertionError(f"{instance_id} does not run")

    def runs(self, instance_id: str) -> bool:
        """Whether a service, "nats" or "redis" has a process."""
        with suppress(AssertionError):
            return self.pid(instance_id) > 0
        return False

    @property
    def up_pid(self) -> int:
        assert self.process
        return self.process.pid

    def processes(self) -> list[psutil.Process]:
        """All processes under `up`, ranks of workers among them."""
        found = psutil.Process(self.up_pid).children(recursive=True)
        running = []
        for process in found:
            with suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    running.append(process)
        return running

    def signal(self, instance_id: str, number: signal.Signals) -> int:
        """Sends a signal to a service; returns its process number."""
        pid = self.pid(instance_id)
        os.kill(pid, number)
        return pid

    def stop(self, timeout_s: float = 60.0) -> int:
        """Stops `up` as Ctrl-C does; returns its exit code."""
        assert self.process
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.process and self.process.poll() is None:
                self.stop()
        finally:
            self.kill()
