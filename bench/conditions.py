"""Under which conditions a benchmark ran: what stands at the head of its JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from services.cli.machine import usable_cores, visible_gpus

REPO = Path(__file__).resolve().parents[1]


def conditions(how: str) -> dict[str, Any]:
    """``how`` is the command that was run."""
    return {"date": now(), "commit": commit(), "machine": machine(), "versions": versions(), "how": how}


def write(file: Path, content: Any) -> None:
    """Whoever is cut while writing leaves the last whole one."""
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(json.dumps(content, indent=1) + "\n")
    fresh.replace(file)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str:
    """BENCH_COMMIT where it is set, for a tree that is no checkout."""
    if named := os.environ.get("BENCH_COMMIT"):
        return named
    try:
        command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    found: dict[str, Any] = {"gpus": "none", "cores": usable_cores(), "processor": platform.machine()}
    if gpus := visible_gpus():
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
        name, _, found["driver"] = lines[0].partition(", ")
        found["gpus"] = f"{len(gpus)} x {name}"
    return found


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("torch", "triton", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
