"""Every bar of serving through all services: ``python -m bench.gpu_serving --json FILE [--shape ...] [-- UP FLAGS]``.

For each shape: a model directory with made-up weights, `up` timed until it is ready, `shoal bench serve` for each of
the shape's rows, kernels that Triton compiled in service (there must be none), and a clean stop. After each row the
JSON is rewritten and the table printed, so a run that is cut keeps what it has; the rows nearest to their bars come
first. A shape whose first start had kernels to compile is started once more, to time a warm start.

``--shape demo`` tries the script itself, on any machine, with small sizes. Flags after ``--`` are added to `up`'s.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import budget, shapes
from bench.conditions import conditions, now, write
from bench.shapes import DEMO
from services.cli.bench.workload import WORKLOADS
from services.cli.machine import visible_gpus
from tests.fakes.stack import Stack

REAL_CLIENT = "--vocab-size 100000 --count ids"
DEMO_CLIENT = "--prompt-len 32 --output-len 16 --num 8 --concurrency 2 --count ids"
FAILURES = (AssertionError, OSError, subprocess.SubprocessError)  # of a start, a client and a stop


@dataclass(frozen=True, slots=True)
class Served:
    """How a shape is served and measured; ``workloads`` in the order of what is most worth knowing."""

    workloads: tuple[str, ...]
    flags: str = ""
    tp: int = 1
    client: str = REAL_CLIENT


SERVED = {
    "llama-3-8b": Served(("c256", "long", "c32", "c1", "prefix"), "--gateways 2"),
    "qwen3-0.6b": Served(("c256", "c1"), "--gateways 5 --detokenizers 2"),
    "qwen2-32b": Served(("c256", "c32", "c1"), "--gateways 2", tp=4),
    DEMO: Served(("c1", "c32"), client=DEMO_CLIENT),
}


@dataclass
class Report:
    """What was found so far: on the screen, and in ``file`` as one JSON object."""

    file: Path
    conditions: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)
    rows: list[budget.Row] = field(default_factory=list)

    def add(self, run: dict[str, Any]) -> None:
        rows = budget.rows_of(run)
        self.rows += rows
        figures = {r.figure: {"ours": r.ours, "bar": r.bar, "limit": r.limit, "met": r.met} for r in rows}
        self.runs.append(run | {"figures": figures})
        write(self.file, self.conditions | {"runs": self.runs})
        print(f"\n{budget.show(self.rows)}", flush=True)


class Serving:
    """One shape at one number of GPUs, started as often as asked."""

    def __init__(self, name: str, tp: int, extra_flags: Sequence[str], folder: Path, deadline: float) -> None:
        self._served, self._folder, self._deadline = SERVED[name], folder, deadline
        self._shape = {"shape": name, "tp": tp}
        flags = [*self._served.flags.split(), *extra_flags]
        if tp > 1:
            flags = ["--tp", str(tp), *flags]
        self._model_dir = shapes.model_dir(name, folder)
        if name != DEMO:
            flags = ["--load_format", "dummy", *flags]
        self._flags = flags

    def run(self, workloads: Sequence[str], report: Report, is_warmed: bool = False) -> bool:
        """Starts it, measures and stops it, whatever fails; whether kernels had to be compiled to start it."""
        known = compiled_kernels()
        start = self._run_of(budget.WARM if is_warmed else budget.COLD) | {"kernels_on_disk": len(known)}
        began = time.monotonic()
        try:
            self._left_s()
            with Stack(Path(tempfile.mkdtemp(dir=self._folder)), self._model_dir, *self._flags) as stack:
                start["ready_s"] = round(time.monotonic() - began, 2)
                start["compiled"] = len(compiled_kernels() - known)
                if not start["compiled"]:
                    start["name"] = budget.WARM
                report.add(start)
                for workload in workloads:
                    report.add(self._measure(stack, workload))
                if code := stack.stop():
                    raise AssertionError(f"`up` ended with {code} when it was stopped\n{stack.output()}")
        except FAILURES as error:
            failed = self._run_of(budget.STOP) if "ready_s" in start else start
            report.add(failed | {"error": said(error)})
        return bool(start.get("compiled"))

    def _measure(self, stack: Stack, workload: str) -> dict[str, Any]:
        run, known = self._run_of(workload), compiled_kernels()
        file = stack.directory / f"{workload}.json"
        words = ("--workload", workload, "--json", str(file), *self._served.client.split())
        try:
            done = stack.cli("bench", "serve", *words, timeout_s=self._left_s())
            if file.exists():
                client = json.loads(file.read_text())
                run |= {"client": client["conditions"]} | client["workloads"][0]
            if done.returncode:
                raise AssertionError(f"{done.stderr}{done.stdout}\n{stack.logs()}")
        except FAILURES as error:
            run["error"] = said(error)
        return run | {"compiled": len(compiled_kernels() - known)}

    def _left_s(self) -> float:
        if time.monotonic() > self._deadline:
            raise TimeoutError("not run: the minutes were over")
        return self._deadline - time.monotonic()

    def _run_of(self, name: str) -> dict[str, Any]:
        return self._shape | {"name": name, "flags": " ".join(self._flags), "at": now()}


def said(error: BaseException) -> str:
    """Its beginning says what, its end why."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"not done after {error.timeout:.0f} s"
    text = str(error).strip() or type(error).__name__
    return text if len(text) < 4000 else f"{text[:1000]}\n...\n{text[-3000:]}"


def compiled_kernels() -> set[str]:
    """Triton makes a folder of its cache for whatever it compiles."""
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton" / "cache")
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def parse(words: list[str]) -> argparse.Namespace:
    at = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape", nargs="+", choices=SERVED, help="by default those that the GPUs are enough for"
    )
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, help="by default the shape's rows")
    parser.add_argument("--tp", type=int, help="GPUs, other than the bars are for")
    parser.add_argument("--minutes", type=float, default=60.0, help="nothing is begun after, nor measured on")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args(words[:at])
    arguments.up_flags = words[at + 1 :]
    num_gpus = len(visible_gpus())
    fitting = [name for name in SERVED if name != DEMO and (arguments.tp or SERVED[name].tp) <= num_gpus]
    arguments.shape = arguments.shape or fitting or [DEMO]
    return arguments


def main() -> int:
    arguments = parse(sys.argv[1:])
    deadline = time.monotonic() + 60 * arguments.minutes
    report = Report(arguments.json, conditions("python -m bench.gpu_serving"))
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.shape:
            tp = arguments.tp or SERVED[name].tp
            serving = Serving(name, tp, arguments.up_flags, Path(folder), deadline)
            had_to_compile = serving.run(arguments.workload or SERVED[name].workloads, report)
            if had_to_compile and not arguments.workload:
                serving.run((), report, is_warmed=True)
    return int(any(is_bad(run) for run in report.runs))


def is_bad(run: dict[str, Any]) -> bool:
    """Whether something failed, or was compiled while requests waited for it; a missed bar is a result."""
    in_service = run["name"] not in (budget.COLD, budget.WARM)
    return bool(run.get("error") or run.get("num_failed") or (in_service and run.get("compiled")))


if __name__ == "__main__":
    sys.exit(main())
