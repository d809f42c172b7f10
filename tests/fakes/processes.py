"""Services as real processes, for tests that start, ask and end them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.fakes.probe import get
from tests.fakes.servers import die_with_parent, free_port
from tests.fakes.waiting import until


class ServiceProcess:
    """``python -m services.<name>`` with a health port of its own."""

    def __init__(self, service: str, flags: list[str]) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", f"services.{service}", "--health_port", str(self.port), *flags]
        self.popen = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=die_with_parent
        )

    def get(self, path: str) -> tuple[int, str]:
        """(status, body) of its health server; (0, "") while nobody listens."""
        return get(f"http://127.0.0.1:{self.port}{path}")

    def is_ready(self) -> bool:
        assert self.popen.poll() is None, f"it ended with {self.popen.returncode}"
        return self.get("/ready")[0] == 200

    async def until_ready(self) -> None:
        await until(self.is_ready, "the service to be ready")

    def terminate(self) -> int:
        """SIGTERM; its exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(20)

    def stop(self) -> None:
        self.popen.kill()
        self.popen.wait(10)
        if self.popen.stderr:
            self.popen.stderr.close()


@contextmanager
def running_service(service: str, flags: list[str]) -> Iterator[ServiceProcess]:
    process = ServiceProcess(service, flags)
    try:
        yield process
    finally:
        process.stop()


def modules_of(statement: str) -> set[str]:
    """Names of all modules that are loaded after a statement ran in a fresh interpreter."""
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    return set(json.loads(result.stdout))
