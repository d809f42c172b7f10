"""Jobs of ``shoal test``: each a command of its own, one after another or beside each other, counted together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.cli.process import exit_text
from services.cli.screen import Screen

_COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed|deselected)")
_MAX_LINE_BYTES = 16 * 1024 * 1024
_NICENESS = 10
# What pytest's exit codes mean when it did not come to the end of its tests.
_PYTEST_EXITS = {
    2: "it was interrupted",
    3: "an internal error of pytest",
    4: "pytest was called wrongly",
    5: "it collected no test",
}


@dataclass(frozen=True, slots=True)
class Job:
    """A check, which is well when it exits with 0, or a run of pytest."""

    name: str
    command: tuple[str, ...]
    is_pytest: bool = False


@dataclass(slots=True)
class Tally:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    @property
    def is_well(self) -> bool:
        return self.passed > 0 and not self.failed

    def add(self, other: Tally) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def read_summary(lines: Iterable[str]) -> Tally:
    """What pytest's closing line counts, such as ``3 failed, 40 passed in 2.10s``; nothing where there is none."""
    tally, last = Tally(), ""
    for line in lines:
        last = line if " in " in line and _COUNT.search(line) else last
    for number, word in _COUNT.findall(last):
        if word in ("passed", "xfailed"):
            tally.passed += int(number)
        elif word in ("failed", "error", "errors", "xpassed"):
            tally.failed += int(number)
        elif word == "skipped":
            tally.skipped += int(number)
    return tally


def judge(job: Job, code: int, lines: Sequence[str]) -> tuple[Tally, str]:
    """The counts of a job that ended, and what is wrong beyond them; empty when nothing is."""
    if not job.is_pytest:
        return Tally(passed=int(code == 0), failed=int(code != 0)), ""
    tally = read_summary(lines)
    if (
        code in (0, 1)
        and bool(tally.failed) == bool(code)
        and (tally.passed or tally.failed or tally.skipped)
    ):
        return tally, ""
    tally.failed += 1
    return tally, _PYTEST_EXITS.get(code, f"it {exit_text(code)}, which its last line does not account for")


def yield_to_others() -> None:
    """Before exec, in a session of its own: this process and its children take what processor time others leave."""
    os.nice(_NICENESS)
    # Where Linux shares the processors by session, niceness means nothing to processes of other sessions, and every
    # service of a stack under test has its own. What counts there is the niceness of the session.
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(_NICENESS))


@dataclass(slots=True)
class Jobs:
    """Runs jobs in ``directory``. What runs beside gets the processor time that the others leave.

    Those others wait on timers and leases most of the time, and are tests of what happens when a service is slow
    to answer: niceness keeps the company from changing what they measure.
    """

    env: Mapping[str, str]
    screen: Screen
    directory: Path
    total: Tally = field(default_factory=Tally)
    failed: list[str] = field(default_factory=list)  # names of jobs

    async def run(self, shown: Iterable[Job], beside: Iterable[Job] = (), num_beside: int = 1) -> None:
        """All of ``shown`` in turn, their lines as they come; meanwhile up to ``num_beside`` of the others.

        Of those one line is shown at their end, and all they said where they failed. When none of them is left, what
        would be shown last is run in their place, so that no processor idles while much is still to come.
        """
        ahead, others = deque(shown), deque(beside)

        def next_shown() -> Job | None:
            return ahead.popleft() if ahead else None

        def next_beside() -> Job | None:
            if others:
                return others.popleft()
            return ahead.pop() if ahead else None

        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_each(next_shown, is_shown=True))
            for _ in range(num_beside):
                group.create_task(self._run_each(next_beside, is_shown=False))

    async def _run_each(self, take: Callable[[], Job | None], *, is_shown: bool) -> None:
        loop = asyncio.get_running_loop()
        while (job := take()) is not None:
            began = loop.time()
            code, lines = await self._output_of(job, is_shown=is_shown)
            tally, problem = judge(job, code, lines)
            self.total.add(tally)
            if not is_shown and tally.failed:
                self.screen.line("\n".join(lines))
            counts = f": {tally}" if job.is_pytest else ""
            problem = f": {problem}" if problem else ""
            say = self.screen.bad if tally.failed else self.screen.ok
            say(f"{job.name}{counts}{problem} ({loop.time() - began:.0f} s)")
            if tally.failed:
                self.failed.append(job.name)

    async def _output_of(self, job: Job, *, is_shown: bool) -> tuple[int, list[str]]:
        """Runs a job to its end; (exit code, what it said). Ends it when we are cancelled."""
        process = await asyncio.create_subprocess_exec(
            *job.command,
            cwd=self.directory,
            env=dict(self.env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_MAX_LINE_BYTES,
            start_new_session=not is_shown,
            preexec_fn=None if is_shown else yield_to_others,
        )
        assert process.stdout
        lines = []
        try:
            async for line in process.stdout:
                lines.append(line.decode("utf-8", "replace").rstrip("\n"))
                if is_shown:
                    self.screen.line(lines[-1])
            return await process.wait(), lines
        finally:
            if process.returncode is None:
                if is_shown:
                    process.terminate()
                else:
                    os.killpg(process.pid, signal.SIGTERM)  # with all it started
                await process.wait()
