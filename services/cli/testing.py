"""``shoal test``: style, import directions, types, then every test. With --compose: the containers instead."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.cli.rundir import REPO
from services.cli.screen import Screen
from services.common.options import OptionError

HELP = """./shoal test [--compose] [--soak DURATION [--seed N]] [pytest arguments]

Without arguments: ruff, import directions, mypy, then all of tests/ but the containers.
  --compose         build the images and try them as a stack (needs docker or podman with compose)
  --soak 30m        kill services at random for so long and print what it cost (s, m or h)
  --seed N          which kills; the same seed strikes the same services in the same order
Other arguments go to pytest as they are: ./shoal test tests/unit -x
"""

_COUNT = re.compile(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed|deselected)")


@dataclass(slots=True)
class Tally:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add_check(self, is_well: bool) -> None:
        self.passed, self.failed = self.passed + is_well, self.failed + (not is_well)

    def add_pytest(self, summary: str) -> None:
        """Adds what pytest's closing line counts, such as ``3 failed, 40 passed in 2.10s``."""
        for number, word in _COUNT.findall(summary):
            if word in ("passed", "xfailed"):
                self.passed += int(number)
            elif word in ("failed", "error", "errors", "xpassed"):
                self.failed += int(number)
            elif word == "skipped":
                self.skipped += int(number)


def seconds(text: str) -> float:
    """A duration such as 90, 90s, 30m or 2h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found:
        raise OptionError(f"--soak {text}: expected a duration such as 90s, 30m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def checks() -> list[tuple[str, list[str]]]:
    python = [sys.executable, "-m"]
    return [
        ("ruff check", [*python, "ruff", "check", "."]),
        ("ruff format", [*python, "ruff", "format", "--check", "."]),
        (
            "import directions",
            [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        ),
        ("mypy", [*python, "mypy", "services", "kernels"]),
    ]


def main(argv: list[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(HELP, end="")
        return 0
    words, is_compose = list(argv), False
    if "--compose" in words:
        words.remove("--compose")
        is_compose = True
    soak, seed = _take(words, "--soak"), _take(words, "--seed")
    env = dict(os.environ, PYTHONPATH=os.environ.get("PYTHONPATH") or str(REPO))
    env.setdefault("OMP_NUM_THREADS", "1")  # tests start many processes: threads would spin for each other
    tally, screen = Tally(), Screen()
    if is_compose:
        words = ["tests/compose", "--timeout", "2400", *words]
    elif soak is not None:
        env["SHOAL_SOAK_SECONDS"] = str(seconds(soak))
        env["SHOAL_SOAK_SEED"] = str(_whole_number("--seed", seed or "0"))
        words = ["-m", "soak", "-s", "--timeout", "0", *(words or ["tests/faults"])]
    elif not words:
        words = ["--ignore=tests/compose"]
        for name, command in checks():
            tally.add_check(_check(name, command, env, screen))
    _pytest(words, env, tally)
    # The plain line that any CI can read, whatever else was printed.
    print(f"{tally.passed} passed, {tally.failed} failed, {tally.skipped} skipped", flush=True)
    return 1 if tally.failed or not tally.passed else 0


def _take(words: list[str], flag: str) -> str | None:
    """Removes a flag and its value; the value, or None where the flag is not there."""
    if flag not in words:
        return None
    at = words.index(flag)
    value = words[at + 1] if at + 1 < len(words) else ""
    del words[at : at + 2]
    return value


def _whole_number(flag: str, text: str) -> int:
    if not text.isdecimal():
        raise OptionError(f"{flag} {text}: expected a whole number")
    return int(text)


def _check(name: str, command: Sequence[str], env: dict[str, str], screen: Screen) -> bool:
    began = time.monotonic()
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True)
    is_well = done.returncode == 0
    (screen.ok if is_well else screen.bad)(f"{name} ({time.monotonic() - began:.1f} s)")
    if not is_well:
        screen.line((done.stdout + done.stderr).rstrip())
    return is_well


def _pytest(words: Sequence[str], env: dict[str, str], tally: Tally) -> None:
    """Runs pytest, shows what it says as it says it, and counts by its last line."""
    command = [sys.executable, "-m", "pytest", *words]
    last = ""
    with subprocess.Popen(
        command, cwd=REPO, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        for line in iter(process.stdout.readline, b""):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            text = line.decode("utf-8", "replace").strip()
            last = text if _COUNT.search(text) and " in " in text else last
    tally.add_pytest(last)
    if process.returncode not in (0, 1) or (process.returncode == 1 and not tally.failed):
        tally.failed += 1  # it did not get to its tests
