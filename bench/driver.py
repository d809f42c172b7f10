"""Drives a Runner the way the engine does, without the engine: for benchmarks of the model alone."""

from __future__ import annotations

import copy
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from services.worker.runner.interface import Runner, StepHandle
from services.worker.runner.plan import PrefillChunk, SlotSampling, SlotStart, StepPlan

PLANS_AHEAD = 1


@dataclass
class Timings:
    """Seconds. A step is the wall time per step in steady state; host is the time inside launch()."""

    prefill: float = 0.0
    step: float = 0.0
    host: list[float] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    """By step, the ids drawn."""


class DecodeBatch:
    """`rows` sequences of `context` random prompt tokens with blocks for `steps` more."""

    def __init__(
        self, runner: Runner, rows: int, context: int, steps: int, sampling: SlotSampling, seed: int = 0
    ) -> None:
        self._runner = runner
        self._rows = rows
        self._context = context
        self._steps = steps
        self._sampling = sampling
        self._prompts = np.random.default_rng(seed).integers(
            0, runner.info.vocab_size, (rows, context), dtype=np.int32
        )

    def through(self, runner: Runner) -> DecodeBatch:
        """The same sequences, driven through a wrapper of their runner."""
        other = copy.copy(self)
        other._runner = runner
        return other

    def prefill(self) -> float:
        """Seconds until every row's first token is on the host."""
        began = time.perf_counter()
        per_step = max(1, self._runner.info.max_step_tokens // self._context)
        handles = [self._runner.launch(plan) for plan in self._prefill_plans(per_step)]
        for handle in handles:
            handle.result()
        return time.perf_counter() - began

    def decode(self, steps: int) -> Timings:
        """`steps` decode steps of all rows, the next launched before the last is read."""
        timings = Timings()
        pending: deque[StepHandle] = deque()
        slots = list(range(self._rows))
        began = time.perf_counter()
        for step in range(steps):
            plan = StepPlan(step, decode_slots=slots)
            entered = time.perf_counter()
            pending.append(self._runner.launch(plan))
            timings.host.append(time.perf_counter() - entered)
            while len(pending) > PLANS_AHEAD:
                timings.tokens.append(pending.popleft().result().token_ids.tolist())
        while pending:
            timings.tokens.append(pending.popleft().result().token_ids.tolist())
        timings.step = (time.perf_counter() - began) / steps
        return timings

    def _prefill_plans(self, per_step: int) -> list[StepPlan]:
        blocks = -(-(self._context + self._steps) // self._runner.info.block_size)
        plans = []
        for first in range(0, self._rows, per_step):
            plan = StepPlan(first)
            for slot in range(first, min(first + per_step, self._rows)):
                plan.starts.append(SlotStart(slot, self._sampling))
                plan.set_blocks(slot, 0, list(range(1 + slot * blocks, 1 + (slot + 1) * blocks)))
                plan.prefills.append(PrefillChunk(slot, 0, self._prompts[slot], samples=True))
            plans.append(plan)
        return plans
