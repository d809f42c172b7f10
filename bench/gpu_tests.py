"""The tests of kernels and of failing steps on this machine: ``python -m bench.gpu_tests [--json FILE] [-- PYTEST WORDS]``.

They need torch, triton, numpy and msgpack, and nothing of the project's own test configuration; on a GPU the kernels are
compiled for it, elsewhere Triton interprets them. With pytest-xdist those of kernels run on several cores at once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from bench.conditions import REPO, conditions, write
from services.cli.machine import usable_cores

FOLDERS = ("tests/kernels", "tests/gpu")
ONE_BY_ONE = "tests/gpu"  # where a test takes all of the GPU's memory
MAX_PROCESSES = 12  # each has its own part of the GPU's memory


def summary(junit: str) -> dict[str, Any]:
    """Counts of a JUnit report, and the names of what failed."""
    cases = list(ElementTree.fromstring(junit).iter("testcase"))
    by_outcome: dict[str, list[str]] = {"failure": [], "error": [], "skipped": []}
    for case in cases:
        for outcome, names in by_outcome.items():
            if case.find(outcome) is not None:
                names.append(f"{case.get('classname')}::{case.get('name')}")
    failed = by_outcome["failure"] + by_outcome["error"]
    return {
        "tests": len(cases),
        "passed": len(cases) - len(failed) - len(by_outcome["skipped"]),
        "skipped": len(by_outcome["skipped"]),
        "failed": failed,
        "seconds": round(sum(float(case.get("time", 0)) for case in cases), 1),
    }


def run(folder: str, words: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        junit = Path(scratch, "junit.xml")
        command = [
            sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", ".", "--confcutdir", folder, "-q",
            "-p", "no:cacheprovider", "--import-mode=importlib", f"--junitxml={junit}", folder, *words,
        ]  # fmt: skip
        processes = min(usable_cores() - 2, MAX_PROCESSES)
        can_share = folder != ONE_BY_ONE and processes > 1
        if torch.cuda.is_available() and can_share and find_spec("xdist"):
            command += ["-n", str(processes)]
        code = subprocess.run(command, cwd=REPO).returncode
        found = summary(junit.read_text()) if junit.exists() else {}
    return {"folder": folder, "on": "GPU" if torch.cuda.is_available() else "interpreter", "rc": code} | found


def parse(words: list[str]) -> argparse.Namespace:
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folders", nargs="+", default=FOLDERS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words[:at])
    arguments.pytest_words = words[at + 1 :]
    return arguments


def main() -> int:
    arguments = parse(sys.argv[1:])
    report = conditions("python -m bench.gpu_tests") | {"runs": []}
    for folder in arguments.folders:
        report["runs"].append(run(folder, arguments.pytest_words))
        print(report["runs"][-1], flush=True)
        if arguments.json:
            write(arguments.json, report)
    return int(any(found["rc"] for found in report["runs"]))


if __name__ == "__main__":
    sys.exit(main())
