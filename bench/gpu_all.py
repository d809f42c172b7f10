"""All figures of the GPU engine in one JSON file: ``python -m bench.gpu_all --out DIR [--only NAME ...] [--minutes N]``.

Each part is another script, run in a process with a time limit, the most telling first; whatever fails, the rest goes on.
DIR/gpu.json is rewritten after each part, and DIR/gpu.log holds all that they print. One GPU: the parts for one; more:
those over as many. Without any GPU every script is tried in a small form, so that none fails on a GPU by a slip: what only
a GPU shows is then absent.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.conditions import REPO, conditions, now, write
from bench.engine_bars import findings, show
from services.cli.machine import visible_gpus

ENDING_S = 15.0  # for a part to end by itself once it is told to
TAIL = 4000  # characters of a failed part's output that are kept


@dataclass(frozen=True, slots=True)
class Part:
    """A script's module and words, `{json}` where its results go. ``trial``: its small form, for machines without GPUs."""

    name: str
    words: str
    limit_s: float
    gpus: int = 1
    trial: str | None = None


_STEPS = "bench.gpu_smoke --json {json} --shapes"
_SERVING = "bench.gpu_serving --json {json} --shape"
_SERVING_TRIAL = _SERVING + " demo --workload c1"

PARTS = (
    Part("serving-8b", _SERVING + " llama-3-8b --minutes 5", 330, trial=_SERVING_TRIAL),
    Part("serving-0.6b", _SERVING + " qwen3-0.6b --minutes 2.5", 180),
    Part(
        "steps-8b", _STEPS + " llama-3-8b", 150, trial=_STEPS + " demo --batches 1 2 --context 32 --steps 4"
    ),
    Part("steps-0.6b", _STEPS + " qwen3-0.6b", 120),
    Part("agreement", "bench.gpu_agreement --json {json}", 210),
    Part("logits", "bench.gpu_logits --json {json}", 150, trial="bench.gpu_logits --json {json}"),
    Part(
        "host", "bench.host_step --json {json}", 60,
        trial="bench.host_step --json {json} --batches 1 4 --steps 20",
    ),
    Part(
        "mixed-8b", "bench.mixed_steps llama-3-8b --json {json}", 120,
        trial="bench.mixed_steps demo --cases 2:40:24:16 --json {json}",
    ),
    Part(
        "tests", "bench.gpu_tests --json {json} --folders tests/kernels", 300,
        trial="bench.gpu_tests --json {json} --folders tests/kernels -- -k simple",
    ),
    Part("failing-steps", "bench.gpu_tests --json {json} --folders tests/gpu -- -k cuda", 240),
    Part(
        "failures", "bench.gpu_failures --json {json} -- --data_type fp32", 360,
        trial="bench.gpu_failures --json {json} --only fatal",
    ),
    Part(
        "sampling",
        "bench.kernels --out {json} --only sampling --budget 100 "
        "--match '^R256 (greedy|temperature|top-p|top-k|top-k.p|min-p|penalties) (flat|peaked) bfloat16'",
        130,
    ),
    Part("energy", "bench.kernels.energy --json {json}", 60),
    Part(
        "load", "bench.load_weights --json {json} --layers 16", 150,
        trial="bench.load_weights --json {json} --hidden 1024 --tp 1 2",
    ),
    # Over several GPUs.
    Part("serving-32b-tp4", _SERVING + " qwen2-32b --minutes 5", 330, gpus=4),
    Part("steps-32b-tp4", _STEPS + " qwen2-32b --tp 4", 180, gpus=4),
    Part(
        "agreement-tp", "bench.gpu_agreement --json {json} --tp 1 2 4", 300, gpus=4,
        trial="bench.gpu_agreement --json {json} --tp 1 2 --prompts 2 --tokens 4",
    ),
    Part(
        "failures-tp2", "bench.gpu_failures --json {json} --only rank fatal -- --data_type fp32 --tp 2", 240, gpus=2
    ),
    Part("sums-tp4", "bench.all_reduce --json {json} --ranks 4", 90, gpus=4),
    Part("mixed-32b-tp4", "bench.mixed_steps qwen2-32b --tp 4 --json {json}", 150, gpus=4),
    Part("serving-8b-tp4", _SERVING + " llama-3-8b --tp 4 --workload c1 c32 --minutes 2.5", 180, gpus=4),
    Part("serving-8b-tp2", _SERVING + " llama-3-8b --tp 2 --workload c1 c32 --minutes 2.5", 180, gpus=2),
    Part("steps-8b-tp2", _STEPS + " llama-3-8b --tp 2", 120, gpus=2),
    Part(
        "failing-ranks", "bench.gpu_tests --json {json} --folders tests/gpu -- -k 'rank and cuda'", 120, gpus=2
    ),
)  # fmt: skip


def pick(names: Sequence[str], num_gpus: int) -> list[Part]:
    """The parts named, or else those for this many GPUs: one's own, or those over several; all where there is none."""
    if names:
        return [part for part in PARTS if part.name in names]
    if not num_gpus:
        return list(PARTS)
    return [part for part in PARTS if part.gpus <= num_gpus and (part.gpus > 1) == (num_gpus > 1)]


def words_of(part: Part, num_gpus: int) -> tuple[str | None, str]:
    """What is run of a part on this machine; None, and why, where nothing is."""
    if num_gpus >= part.gpus:
        return part.words, ""
    if num_gpus:
        return None, f"needs {part.gpus} GPUs, found {num_gpus}"
    return (
        part.trial,
        "" if part.trial else "absent: no GPU, and no small form that shows more than another part's",
    )


def run(words: str, limit_s: float, file: Path, log: Path) -> dict[str, Any]:
    """Runs a script's words; what it wrote, its exit code, and the end of what it said where that is not 0."""
    command = [sys.executable, "-m", *(word.format(json=file) for word in shlex.split(words))]
    began, said_from = time.monotonic(), log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        output.write(f"\n##### {now()} {shlex.join(command[1:])}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command,
            cwd=REPO,
            env=os.environ | {"TQDM_DISABLE": "1"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        code = wait(process, limit_s)
    found: dict[str, Any] = {"rc": code, "seconds": round(time.monotonic() - began, 1)}
    if code:
        found["tail"] = log.read_bytes()[said_from:].decode(errors="replace")[-TAIL:]
    if file.exists():  # of a part that was cut, what it had
        try:
            found["result"] = json.loads(file.read_text())
        except ValueError as error:  # cut while it wrote: the parts after it are still to be run
            found["unreadable"] = str(error)
    return found


def wait(process: subprocess.Popen[bytes], limit_s: float) -> int | str:
    """The exit code, or that the time was over; then nothing that it started is left."""
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        pass
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(ENDING_S)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    return f"stopped after {limit_s:.0f} s"


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], default=[])
    parser.add_argument("--minutes", type=float, default=60.0, help="no part runs on after them")
    return parser.parse_args(words)


def main() -> int:
    arguments = parse(sys.argv[1:])
    deadline, num_gpus = time.monotonic() + 60 * arguments.minutes, len(visible_gpus())
    arguments.out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, dict[str, Any]] = {}
    report = conditions("python -m bench.gpu_all") | {"findings": [], "parts": parts}
    for part in pick(arguments.only, num_gpus):
        words, reason = words_of(part, num_gpus)
        left_s = deadline - time.monotonic()
        if words is None or left_s < ENDING_S:
            parts[part.name] = {"not_run": reason or "the minutes were over"}
        else:
            parts[part.name] = {"words": words, "at": now()}
            with tempfile.TemporaryDirectory() as folder:
                limit_s = min(part.limit_s, left_s) if num_gpus else left_s
                parts[part.name] |= run(words, limit_s, Path(folder, "part.json"), arguments.out / "gpu.log")
        report["findings"] = [asdict(finding) for finding in findings(parts)]
        write(arguments.out / "gpu.json", report)
        shown = {
            key: value for key, value in parts[part.name].items() if key not in ("result", "words", "at")
        }
        print(f"{part.name}: {shown}", flush=True)
    print(show(findings(parts)))
    if unrun := [name for name, part in parts.items() if "not_run" in part and num_gpus]:
        print(f"not run: --only {' '.join(unrun)}")
    return int(any(part.get("rc") for part in parts.values()))


if __name__ == "__main__":
    sys.exit(main())
