"""``shoal test``: style, import directions, types, then every test. With --compose: the containers instead."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from services.cli.jobs import Job, Jobs
from services.cli.rundir import REPO
from services.cli.screen import Screen
from services.common.cores import usable_cores
from services.common.options import OptionError

HELP = """./shoal test [--compose] [--soak DURATION [--seed N]] [pytest arguments]

Without arguments: ruff, import directions, mypy, and all of tests/ but the containers, on all processors.
  --compose         build the images and try them as a stack (needs docker or podman with compose)
  --soak 30m        kill services at random for so long and print what it cost (s, m or h)
  --seed N          which kills; the same seed strikes the same services in the same order
Other arguments go to pytest as they are: ./shoal test tests/unit -x
"""

# Folders of tests that compute and wait for nobody. They run beside the others, which wait for processes and leases.
COMPUTING = ("simulation", "unit", "kernels", "gpu")
LONGEST = ("faults", "e2e")  # of the others: begun first, so that the end is made of short ones
DIVIDED = "integration"  # a run for each of its folders
CONTAINERS = "compose"


def seconds(text: str) -> float:
    """A duration such as 90, 90s, 30m or 2h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found:
        raise OptionError(f"--soak {text}: expected a duration such as 90s, 30m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def checks() -> list[Job]:
    python = (sys.executable, "-m")
    lint_imports = "from importlinter.cli import lint_imports_command as c; c()"
    return [
        Job("ruff check", (*python, "ruff", "check", ".")),
        Job("ruff format", (*python, "ruff", "format", "--check", ".")),
        Job("import directions", (sys.executable, "-c", lint_imports)),
        Job("mypy", (*python, "mypy", "services", "kernels")),
    ]


def pytest(name: str, words: Sequence[str]) -> Job:
    return Job(name, (sys.executable, "-m", "pytest", *words), is_pytest=True)


def groups(tests: Path) -> tuple[list[Job], list[Job]]:
    """A run of pytest for each folder of tests, found by looking: (those that wait, those that compute)."""
    names = {_group_of(path.relative_to(tests)) for path in tests.rglob("test_*.py")} - {CONTAINERS}
    # A line per file, so that one can see how far it is.
    first = [name for name in LONGEST if name in names]
    rest = sorted(names.difference(COMPUTING, LONGEST))
    waiting = [pytest(n, (f"{tests.name}/{n}", "-v", "--no-header")) for n in (*first, *rest)]
    # Beside those, and beside other work on the machine, a second's work may take a minute.
    patient = ("--timeout", "600")
    return waiting, [pytest(n, (f"{tests.name}/{n}", *patient)) for n in COMPUTING if n in names]


def _group_of(path: Path) -> str:
    return "/".join(path.parts[:2] if path.parts[0] == DIVIDED else path.parts[:1])


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
    beside: list[Job] = []
    if is_compose:
        shown = [pytest("containers", ("tests/compose", "--timeout", "2400", *words))]
    elif soak is not None:
        env["SHOAL_SOAK_SECONDS"] = str(seconds(soak))
        env["SHOAL_SOAK_SEED"] = str(_whole_number("--seed", seed or "0"))
        shown = [pytest("soak", ("-m", "soak", "-s", "--timeout", "0", *(words or ["tests/faults"])))]
    elif words:
        shown = [pytest("pytest", words)]
    else:
        shown, beside = groups(REPO / "tests")
        beside = checks() + beside
    return _run(Jobs(env, Screen(), REPO), shown, beside)


def _run(jobs: Jobs, shown: Sequence[Job], beside: Sequence[Job]) -> int:
    num_beside = min(usable_cores(), 4) if beside else 0
    asyncio.run(jobs.run(shown, beside, num_beside))
    if jobs.failed:
        jobs.screen.bad(f"failed: {', '.join(jobs.failed)}")
    # The plain line that any CI can read, whatever else was printed.
    print(jobs.total, flush=True)
    return 0 if jobs.total.is_well else 1


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
