"""Makes one step of a loaded model fail and prints, as JSON, how the runner took it: python failing_step.py CASE DEVICE.

Every case first generates with healthy steps. The process ends without closing the runner, as the engine's does.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from services.worker.runner.config import RunnerConfig
from services.worker.runner.interface import Runner
from services.worker.runner.plan import (
    PrefillChunk,
    SlotSampling,
    SlotStart,
    StepPlan,
    decode_plan,
    encode_plan,
)
from services.worker.runner.start import start_runner

DEMO_MODEL = Path(__file__).resolve().parents[2] / "demo" / "model"
PROMPT = np.arange(1, 40, dtype=np.int32)
# A block so far away that no allocation of the process can be there.
NOWHERE = 2**31 - 1
MAX_STEP_TOKENS = 4096
STEPS_ON = 200


def healthy_steps(runner: Runner) -> int:
    """Prefills slot 0 and decodes it, the next step launched before the last is read. Returns the next step's number."""
    plan = StepPlan(0, starts=[SlotStart(0, SlotSampling())])
    plan.set_blocks(0, 0, list(range(1, 17)))
    plan.prefills = [PrefillChunk(0, 0, PROMPT, samples=True)]
    pending = runner.launch(plan)
    for step in range(1, 9):
        following = runner.launch(StepPlan(step, decode_slots=[0]))
        pending.result()
        pending = following
    assert len(pending.result().token_ids) == 1
    return 9


def chunk_plan(step: int, ids: np.ndarray) -> StepPlan:
    """A prompt of its own in slot 1."""
    plan = StepPlan(step, starts=[SlotStart(1, SlotSampling())])
    plan.set_blocks(1, 0, list(range(17, 17 + min(-(-len(ids) // 16), 256))))
    plan.prefills = [PrefillChunk(1, 0, ids, samples=True)]
    return plan


def misplaced(plan: StepPlan) -> StepPlan:
    """The plan with a block that is not in the pool."""
    return replace(plan, table_blocks=[NOWHERE] * len(plan.table_blocks))


def scored(plan: StepPlan, ids: np.ndarray) -> StepPlan:
    """The plan with the log-probabilities of its prompt wanted, taken to go on with `ids`."""
    return replace(plan, prefills=[replace(chunk, scored_ids=ids, num_top=1) for chunk in plan.prefills])


def run(runner: Runner, plan: StepPlan) -> None:
    runner.launch(plan).result()


def block_in_prefill(runner: Runner, step: int) -> None:
    run(runner, misplaced(chunk_plan(step, PROMPT)))


def block_in_long_prefill(runner: Runner, step: int) -> None:
    run(runner, misplaced(chunk_plan(step, np.zeros(2000, np.int32))))


def block_in_decode(runner: Runner, step: int) -> None:
    plan = StepPlan(step, decode_slots=[0])
    plan.set_blocks(0, len(PROMPT) // 16, [NOWHERE])
    run(runner, plan)


def device_assert(runner: Runner, step: int) -> None:
    run(runner, scored(chunk_plan(step, PROMPT), PROMPT + 10**6))


def long_chunk(runner: Runner, step: int) -> None:
    run(runner, chunk_plan(step, np.zeros(8 * MAX_STEP_TOKENS, np.int32)))


def slot(runner: Runner, step: int) -> None:
    run(runner, StepPlan(step, decode_slots=[10**6]))


def out_of_memory(runner: Runner, step: int) -> None:
    ids = np.zeros(4000, np.int32)
    plan = scored(chunk_plan(step, ids), ids)
    held = take_memory(runner.info.device)
    run(runner, plan)
    del held


def take_memory(device: str) -> list[torch.Tensor]:
    """All that is left on a GPU; on cpu the process may have no more than it has."""
    if device == "cpu":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)
        return []
    held, size = [], torch.cuda.mem_get_info()[0]
    while size >= 1 << 20:
        try:
            held.append(torch.empty(size, dtype=torch.uint8, device=device))
        except torch.cuda.OutOfMemoryError:
            size //= 2
    return held


def rank_killed(runner: Runner, step: int) -> None:
    rank = rank_pids(runner)[0]
    threading.Timer(0.5, lambda: os.kill(rank, signal.SIGKILL)).start()
    run_on(runner, step)


def rank_fails_alone(runner: Runner, step: int) -> None:
    """Rank 1 is sent a step that it cannot run, in place of the one that rank 0 runs."""
    ranks = runner._ranks  # type: ignore[attr-defined]
    send = ranks.broadcast
    ranks.broadcast = lambda plan: send(encode_plan(misplaced(decode_plan(plan))))
    run(runner, chunk_plan(step, PROMPT))


def run_on(runner: Runner, step: int) -> None:
    """Decodes for seconds, as the engine does."""
    began, pending = time.monotonic(), runner.launch(StepPlan(step, decode_slots=[0]))
    while time.monotonic() - began < STEPS_ON:
        step += 1
        following = runner.launch(restart(step) if step % 100 == 0 else StepPlan(step, decode_slots=[0]))
        pending.result()
        pending = following


def restart(step: int) -> StepPlan:
    """Slot 0 from its prompt on, so that it never outgrows its blocks."""
    plan = StepPlan(step, starts=[SlotStart(0, SlotSampling())])
    plan.prefills = [PrefillChunk(0, 0, PROMPT, samples=True)]
    return plan


def rank_pids(runner: Runner) -> list[int]:
    ranks = runner._ranks  # type: ignore[attr-defined]
    return [process.pid for process in ranks._processes] if ranks else []


CASES: dict[str, Callable[[Runner, int], None]] = {
    case.__name__: case
    for case in (
        block_in_prefill, block_in_long_prefill, block_in_decode, device_assert, long_chunk, slot, out_of_memory,
        rank_killed, rank_fails_alone,
    )
}  # fmt: skip


def main() -> None:
    name, device = sys.argv[1:]
    tp = 2 if name.startswith("rank_") else 1
    config = RunnerConfig(
        str(DEMO_MODEL),
        device=device,
        tp=tp,
        max_slots=8,
        max_step_tokens=MAX_STEP_TOKENS,
        max_total_token_num=16384,
        graph_max_batch_size=2,
        cpu_threads=1,
    )
    runner = start_runner(config)
    step = healthy_steps(runner)
    began = time.monotonic()
    said: dict[str, object] = {"error": "", "message": ""}
    try:
        CASES[name](runner, step)
    except Exception as error:
        said = {"error": type(error).__name__, "message": str(error)}
    said |= {"step": step, "seconds": time.monotonic() - began, "ranks": rank_pids(runner)}
    print(json.dumps(said), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
