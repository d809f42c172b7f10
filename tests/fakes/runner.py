"""A runner with a KV pool but no model: what a step draws depends on every KV cell that it reads.

A cell holds a hash of the cell before it and its token, so a cell that is wrong, missing or overwritten changes
every token after it. Expected tokens come from ``expected_ids``, which knows nothing of blocks.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

import numpy as np

from services.worker.runner.interface import RunnerInfo
from services.worker.runner.plan import Float32Array, PromptScores, SlotSampling, StepPlan, StepResult

_MASK = (1 << 61) - 1


def _mix(a: int, b: int) -> int:
    return (a * 0x9E3779B97F4A7C15 + b + 0x7F4A7C15) % _MASK


def draw(cell: int, seed: int, index: int, vocab_size: int) -> int:
    return _mix(_mix(cell, seed), index) // 7 % vocab_size


def expected_ids(
    prompt: list[int], seed: int, max_tokens: int, vocab_size: int, stop_ids: frozenset[int] = frozenset()
) -> list[int]:
    """What a sequence must yield, whatever the batch, the chunks, the cache and the preemptions."""
    cell = 1
    for token in prompt:
        cell = _mix(cell, token)
    ids: list[int] = []
    while len(ids) < max_tokens:
        ids.append(draw(cell, seed, len(ids), vocab_size))
        if ids[-1] in stop_ids:
            break
        cell = _mix(cell, ids[-1])
    return ids


def score(cell: int, token: int) -> int:
    """Stands for the log probability of a token after the positions that a cell sums up."""
    return -(_mix(cell, token) // 7 % 10_000)


def expected_scores(prompt: list[int]) -> list[int]:
    """Those of the prompt's ids from the second on."""
    cell, scores = 1, []
    for token, following in itertools.pairwise(prompt):
        cell = _mix(cell, token)
        scores.append(score(cell, following))
    return scores


@dataclass(slots=True)
class _Slot:
    sampling: SlotSampling
    index: int  # of the next token drawn
    length: int  # positions in the KV
    last_id: int = -1


class FakeHandle:
    def __init__(self, runner: FakeRunner, step: int) -> None:
        self._runner, self._step = runner, step

    def ready(self) -> bool:
        return True

    def result(self) -> StepResult:
        return self._runner.finish(self._step)


class FakeRunner:
    """Steps run when their result is asked for, in the order launched, as on a device that lags behind."""

    def __init__(
        self, *, num_blocks: int, block_size: int, max_slots: int, max_step_tokens: int, vocab_size: int = 97
    ) -> None:
        self.info = RunnerInfo(
            num_blocks=num_blocks,
            block_size=block_size,
            max_slots=max_slots,
            max_model_len=num_blocks * block_size,
            max_step_tokens=max_step_tokens,
            vocab_size=vocab_size,
            eos_ids=(),
            architecture="Fake",
            dtype="int",
            device="cpu",
            num_params=0,
        )
        self.num_launched = self.num_prefilled = 0
        self.fail_at_step = -1
        self.fatal_id = -1  # a prompt with this id breaks the device
        self._cells = [[0] * block_size for _ in range(num_blocks)]
        self._tables = [[0] * num_blocks for _ in range(max_slots)]
        self._slots: list[_Slot | None] = [None] * max_slots
        self._plans: deque[StepPlan] = deque()

    def launch(self, plan: StepPlan) -> FakeHandle:
        assert plan.num_tokens <= self.info.max_step_tokens, "the plan is over the token budget"
        rows = plan.decode_slots + [c.slot for c in plan.prefills]
        assert len(set(rows)) == len(rows), "a slot has two rows in one plan"
        assert rows, "an empty plan"
        self.num_launched += 1
        self.num_prefilled += sum(len(c.token_ids) for c in plan.prefills)
        self._plans.append(plan)
        return FakeHandle(self, plan.step)

    def close(self) -> None:
        self._plans.clear()

    def finish(self, step: int) -> StepResult:
        plan = self._plans.popleft()
        assert plan.step == step, "results are read in the order launched"
        if step == self.fail_at_step:
            raise RuntimeError("the fake device broke")
        if any(self.fatal_id in chunk.token_ids for chunk in plan.prefills):
            raise RuntimeError("the fake device met its fatal id")
        for start in plan.starts:
            self._slots[start.slot] = _Slot(start.sampling, len(start.output_ids), 0)
        for slot, column, block in zip(plan.table_slots, plan.table_columns, plan.table_blocks, strict=True):
            assert 0 < block < self.info.num_blocks, "a block that is not the engine's"
            self._tables[slot][column] = block
        drawn = [self._decode(slot) for slot in plan.decode_slots]
        scores: list[tuple[int, int]] = []  # (score, id)
        num_top = max((c.num_top for c in plan.prefills if len(c.scored_ids)), default=0)
        written = [(slot, self._slot(slot).length - 1, self._slot(slot).length) for slot in plan.decode_slots]
        for chunk in plan.prefills:
            state = self._slot(chunk.slot)
            assert chunk.start == state.length or state.length == 0, "a chunk leaves a gap"
            state.length = chunk.start
            for token in chunk.token_ids.tolist():
                self._write(chunk.slot, token)
            for i, token in enumerate(chunk.scored_ids.tolist(), start=chunk.start + chunk.first_scored):
                assert chunk.start <= i < state.length, "a position outside the chunk is scored"
                scores.append((score(self._read(chunk.slot, i), token), token))
            written.append((chunk.slot, chunk.start, state.length))
            if chunk.samples:
                drawn.append(self._draw(chunk.slot))
        self._check_disjoint(written)
        values: Float32Array = np.asarray([-float(token) for token in drawn], np.float32)
        wants_logprobs = any(self._slot(slot).sampling.logprobs is not None for slot in plan.sampled_slots)
        return StepResult(
            step,
            np.asarray(plan.sampled_slots, np.int32),
            np.asarray(drawn, np.int32),
            logprobs=values if wants_logprobs else None,
            top_ids=np.asarray([[t, 0] for t in drawn], np.int32) if wants_logprobs else None,
            top_logprobs=np.asarray([[v, -99.0] for v in values], np.float32) if wants_logprobs else None,
            prompt=_prompt_scores(scores, num_top) if plan.has_scored else None,
        )

    def _slot(self, slot: int) -> _Slot:
        state = self._slots[slot]
        assert state is not None, "a row of a slot that was never started"
        return state

    def _decode(self, slot: int) -> int:
        assert self._slot(slot).last_id >= 0, "a decode row before anything was drawn"
        self._write(slot, self._slot(slot).last_id)
        return self._draw(slot)

    def _write(self, slot: int, token: int) -> None:
        state = self._slot(slot)
        before = 1 if state.length == 0 else self._read(slot, state.length - 1)
        size = self.info.block_size
        block = self._tables[slot][state.length // size]
        assert block > 0, "a position without a block"
        self._cells[block][state.length % size] = _mix(before, token)
        state.length += 1

    def _read(self, slot: int, position: int) -> int:
        size = self.info.block_size
        return self._cells[self._tables[slot][position // size]][position % size]

    def _draw(self, slot: int) -> int:
        state = self._slot(slot)
        cell = self._read(slot, state.length - 1)
        state.last_id = draw(cell, state.sampling.seed, state.index, self.info.vocab_size)
        state.index += 1
        return state.last_id

    def _check_disjoint(self, written: list[tuple[int, int, int]]) -> None:
        size = self.info.block_size
        blocks = [
            self._tables[slot][column]
            for slot, start, end in written
            for column in range(start // size, -(-end // size))
        ]
        assert len(blocks) == len(set(blocks)), "two sequences write into one block"


def _prompt_scores(scores: list[tuple[int, int]], num_top: int) -> PromptScores:
    """An id is always the likeliest in its place, and the ids after it follow."""
    values = np.asarray([value for value, _ in scores], np.float32)
    return PromptScores(
        values,
        np.ones(len(scores), np.int32),
        np.asarray([[token + k for k in range(num_top)] for _, token in scores], np.int32),
        np.asarray([[value - k for k in range(num_top)] for value, _ in scores], np.float32),
    )
