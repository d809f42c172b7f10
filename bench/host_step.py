"""What a decode step costs the host, without the model: ``python -m bench.host_step [--batches 1 32 256]``.

Runs the runner's own launch() over a model that does no arithmetic, on cpu, so that what is left is the work of
laying out, packing and recording a step.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from services.worker.layers.attention import KVPool
from services.worker.layers.rope import RopeConfig
from services.worker.runner.dynamic_rope import RopeRows
from services.worker.runner.model_runner import ModelRunner
from services.worker.runner.plan import PrefillChunk, SlotSampling, SlotStart, StepPlan

ROPE = RopeConfig(type="default", theta=10000.0, dim=8, max_position=4096)


class NoModel:
    """Returns the same hidden states and logits whatever it is asked."""

    config = SimpleNamespace(vocab_size=64)

    def __init__(self, rows: int) -> None:
        self._logits = torch.randn(rows, 64)

    def forward(self, ids: Tensor, *_: object) -> Tensor:
        return ids

    def logits(self, hidden: Tensor) -> Tensor:
        return self._logits[: len(hidden)]


def measure(rows: int, steps: int, sampling: SlotSampling) -> float:
    """Median seconds of launch() for a decode step in which one row in sixteen gets a new block."""
    device = torch.device("cpu")
    kv = KVPool(1, rows * 64 + 1, 16, 1, 8, torch.float32, device)
    runner = ModelRunner(
        NoModel(rows),
        kv,
        RopeRows(ROPE, 4096, 8192, rows, device),
        None,
        max_slots=rows,
        max_model_len=4096,
        max_step_tokens=8192,
    )  # type: ignore[arg-type]
    plan = StepPlan(0, starts=[SlotStart(slot, sampling) for slot in range(rows)])
    plan.prefills = [PrefillChunk(slot, 0, np.zeros(slot % 16 + 1, np.int32), True) for slot in range(rows)]
    runner.launch(plan)
    times = []
    for step in range(1, steps):
        plan = StepPlan(step, decode_slots=list(range(rows)))
        for slot in range(step % 16, rows, 16):
            plan.set_blocks(slot, step // 16 + 1, [slot * 64 + 1])
        began = time.perf_counter()
        runner.launch(plan)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}"
    )
    for rows in arguments.batches:
        print(
            f"batch {rows:3}: {measure(rows, arguments.steps, SlotSampling()) * 1e3:.3f} ms a step, sampling included"
        )


if __name__ == "__main__":
    main()
