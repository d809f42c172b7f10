"""Steps of prompt chunks beside decodes, the model alone: ``python -m bench.mixed_steps SHAPE [--tp 4] [--json F]``.

Each case is a steady state: the same number of sequences decode while one chunk of a prompt is computed again and
again at the same place. Timed with captured graphs and launched kernel by kernel, in turns; then a trace says where the
time of those goes that are run as in service, and where the host waits for the device. Weights are made up.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from bench import shapes
from bench.conditions import conditions, write
from bench.driver import PLANS_AHEAD
from bench.gpu_smoke import where_time_goes
from bench.traced import RangedRunner
from services.worker.runner.config import RunnerConfig
from services.worker.runner.interface import Runner, StepHandle
from services.worker.runner.plan import PrefillChunk, SlotSampling, SlotStart, StepPlan
from services.worker.runner.start import start_runner

STEPS, ROUNDS = 16, 3


@dataclass(frozen=True)
class Case:
    decodes: int
    context: int
    """Tokens that each decode sees."""
    chunk: int
    chunk_start: int


CASES = [
    Case(31, 1100, 481, 300),
    Case(31, 1100, 97, 900),
    Case(7, 7060, 505, 4000),
    Case(100, 1100, 924, 0),
    Case(248, 1100, 1800, 0),
    Case(248, 1100, 300, 0),
]


class Steady:
    """One case's sequences in a runner's pool."""

    def __init__(self, runner: Runner, case: Case) -> None:
        self._runner, self._case, self._step = runner, case, 0
        rng = np.random.default_rng(0)
        self._chunk = rng.integers(0, runner.info.vocab_size, case.chunk, dtype=np.int32)
        blocks = -(-(case.context + 2 * STEPS * ROUNDS) // runner.info.block_size)
        self._slots = list(range(case.decodes))
        for slot in self._slots:
            plan = StepPlan(0, starts=[SlotStart(slot, SlotSampling(temperature=1.0, seed=slot))])
            plan.set_blocks(slot, 0, list(range(1 + slot * blocks, 1 + (slot + 1) * blocks)))
            ids = rng.integers(0, runner.info.vocab_size, case.context, dtype=np.int32)
            plan.prefills = [PrefillChunk(slot, 0, ids, samples=True)]
            runner.launch(plan).result()
        plan = StepPlan(0, starts=[SlotStart(case.decodes, SlotSampling())])
        first, end = 1 + case.decodes * blocks, case.chunk_start + case.chunk
        plan.set_blocks(case.decodes, 0, list(range(first, first + -(-end // runner.info.block_size))))
        for start in range(0, case.chunk_start, 2048):
            size = min(2048, case.chunk_start - start)
            plan.prefills = [PrefillChunk(case.decodes, start, np.resize(self._chunk, size), samples=False)]
            runner.launch(plan).result()
            plan = StepPlan(0)
        if not case.chunk_start:
            plan.prefills = [PrefillChunk(case.decodes, 0, self._chunk, samples=False)]
            runner.launch(plan).result()

    def through(self, runner: Runner) -> Steady:
        """The same sequences, driven through a wrapper of their runner."""
        other = copy.copy(self)
        other._runner = runner
        return other

    def run(self, steps: int) -> tuple[float, list[float]]:
        """Seconds per step, and inside each launch()."""
        pending: deque[StepHandle] = deque()
        host = []
        began = time.perf_counter()
        for _ in range(steps):
            plan = StepPlan(self._step, decode_slots=self._slots)
            plan.prefills = [
                PrefillChunk(self._case.decodes, self._case.chunk_start, self._chunk, samples=False)
            ]
            self._step += 1
            entered = time.perf_counter()
            pending.append(self._runner.launch(plan))
            host.append(time.perf_counter() - entered)
            while len(pending) > PLANS_AHEAD:
                pending.popleft().result()
        while pending:
            pending.popleft().result()
        return (time.perf_counter() - began) / steps, host


def measure(runners: dict[str, Runner], case: Case) -> dict[str, object]:
    steady = {name: Steady(runner, case) for name, runner in runners.items()}
    walls: dict[str, list[float]] = {name: [] for name in runners}
    hosts: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(ROUNDS):
        for name, batch in steady.items():
            wall, host = batch.run(STEPS)
            walls[name].append(wall)
            hosts[name] += host
    row: dict[str, object] = asdict(case)
    for name in runners:
        row[f"{name}_ms"] = round(1e3 * statistics.median(walls[name]), 3)
        row[f"{name}_launch_ms"] = round(1e3 * statistics.median(hosts[name]), 3)
    name = next(iter(runners))
    row |= where_time_goes(steady[name].through(RangedRunner(runners[name])).run, STEPS)
    return row


def parse_case(text: str) -> Case:
    """ "decodes:context:chunk:chunk_start"."""
    return Case(*map(int, text.split(":")))


def start_all(model_dir: Path, args: argparse.Namespace) -> dict[str, Runner]:
    """Runners by how they launch steps; the one that is traced comes first."""
    fractions = {"graphs": 0.45, "eager": 0.85}
    if args.tp > 1:  # one process group per process
        fractions = {"eager" if args.eager else "graphs": 0.85}
    if not torch.cuda.is_available():
        fractions = {"eager": 0.85}
    runners = {}
    for name, fraction in fractions.items():
        config = RunnerConfig(
            str(model_dir), load_format="dummy", tp=args.tp, cudagraph=name == "graphs", mem_fraction=fraction
        )
        began = time.perf_counter()
        runners[name] = start_runner(config)
        took = time.perf_counter() - began
        print(f"{name}: started in {took:.1f} s, {runners[name].info.num_blocks} blocks", flush=True)
    return runners


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=shapes.NAMES)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--cases", type=parse_case, nargs="+", default=CASES, metavar="D:CONTEXT:CHUNK:START")
    parser.add_argument("--eager", action="store_true", help="with --tp: launched kernel by kernel")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def main() -> None:
    args = parse(sys.argv[1:])
    report = conditions("python -m bench.mixed_steps") | {"shape": args.shape, "tp": args.tp, "rows": []}
    print(f"{report['machine']}, {args.shape}, tp {args.tp}; {STEPS} steps, {ROUNDS} rounds, warm")
    with tempfile.TemporaryDirectory() as folder:
        runners = start_all(shapes.model_dir(args.shape, Path(folder)), args)
    for case in args.cases:
        report["rows"].append(measure(runners, case))
        print(report["rows"][-1], flush=True)
        if args.json:
            write(args.json, report)
    for runner in runners.values():
        runner.close()


if __name__ == "__main__":
    main()
