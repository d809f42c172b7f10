"""One child process: its own session and log file, and no life beyond ours."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from services.cli.plan import ProcessSpec

_PR_SET_PDEATHSIG = 1


def dies_with_parent() -> Callable[[], None] | None:
    """What a child calls before exec so that the kernel kills it when we die, however we die. Linux only."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return before_exec


class Child:
    """A running process of a specification. Ctrl-C in the terminal does not reach it: it has its own session."""

    def __init__(self, spec: ProcessSpec, log: Path, process: asyncio.subprocess.Process) -> None:
        self.spec, self.log, self._process = spec, log, process

    @classmethod
    async def start(cls, spec: ProcessSpec, log: Path) -> Child:
        with log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                env=dict(spec.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=dies_with_parent(),
            )
        return cls(spec, log, process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """The exit code; negative: the signal. What the process itself started is ended with it."""
        code = await self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return code

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def tail(self, num_lines: int) -> list[str]:
        return log_tail(self.log, num_lines)


def log_tail(path: Path, num_lines: int, max_bytes: int = 32_768) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            return file.read().decode("utf-8", "replace").splitlines()[-num_lines:]
    except OSError:
        return []


def exit_text(code: int) -> str:
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
