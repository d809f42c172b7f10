"""The least that can drive a Runner: no prefix cache, no admission, blocks never freed.

Each step feeds one chunk of every prompt that is not through and decodes all the others, and the next step is launched
before the last one's tokens are read, as the engine does it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from services.worker.runner.interface import Runner, StepHandle
from services.worker.runner.plan import PrefillChunk, SlotSampling, SlotStart, StepPlan, StepResult


@dataclass
class Job:
    prompt: list[int]
    max_tokens: int
    sampling: SlotSampling = field(default_factory=SlotSampling)
    emitted: list[int] = field(default_factory=list)
    """Ids generated before this run: not empty for a resumed job."""
    join_at: int = 0
    """The step at which the job joins the batch."""


@dataclass
class _Running:
    job: Job
    slot: int
    ids: list[int]
    fed: int = 0
    planned: int = 0
    drawn: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    tops: list[list[tuple[int, float]]] = field(default_factory=list)


class NaiveEngine:
    def __init__(self, runner: Runner, chunk_size: int = 1 << 20) -> None:
        self.runner = runner
        self.chunk_size = chunk_size
        self._next_block = 1

    def run(self, jobs: list[Job]) -> list[_Running]:
        """All jobs to their max_tokens, counted with `emitted`; end-of-sequence ids do not stop them."""
        waiting = [
            _Running(job, slot, job.prompt + job.emitted, planned=len(job.emitted))
            for slot, job in enumerate(jobs)
        ]
        everything = list(waiting)
        pending: list[StepHandle] = []
        running: list[_Running] = []
        step = 0
        while waiting or running:
            plan = StepPlan(step)
            for row in [row for row in waiting if row.job.join_at <= step]:
                waiting.remove(row)
                running.append(row)
                self._start(plan, row)
            self._fill(plan, running)
            running = [row for row in running if row.planned < row.job.max_tokens]
            step += 1
            if plan.num_tokens:
                pending.append(self.runner.launch(plan))
            while len(pending) > 1:
                self._read(pending.pop(0).result(), everything)
        for handle in pending:
            self._read(handle.result(), everything)
        return everything

    def generate(self, jobs: list[Job]) -> list[list[int]]:
        """The ids that run() draws for each job."""
        return [row.drawn for row in self.run(jobs)]

    def _start(self, plan: StepPlan, row: _Running) -> None:
        job = row.job
        prompt, emitted = np.array(job.prompt, np.int32), np.array(job.emitted, np.int32)
        plan.starts.append(SlotStart(row.slot, job.sampling, prompt, emitted, len(prompt)))
        tokens = len(job.prompt) + job.max_tokens
        count = -(-tokens // self.runner.info.block_size)
        plan.set_blocks(row.slot, 0, list(range(self._next_block, self._next_block + count)))
        self._next_block += count

    def _fill(self, plan: StepPlan, running: list[_Running]) -> None:
        for row in running:
            if row.fed < len(row.ids):
                chunk = np.array(row.ids[row.fed : row.fed + self.chunk_size], np.int32)
                last = row.fed + len(chunk) == len(row.ids)
                plan.prefills.append(PrefillChunk(row.slot, row.fed, chunk, samples=last))
                row.fed += len(chunk)
                row.planned += last
            else:
                plan.decode_slots.append(row.slot)
                row.planned += 1

    @staticmethod
    def _read(result: StepResult, rows: list[_Running]) -> None:
        for index, slot in enumerate(result.slots.tolist()):
            row = rows[slot]
            row.drawn.append(int(result.token_ids[index]))
            if result.logprobs is not None:
                row.logprobs.append(float(result.logprobs[index]))
            if result.top_ids is not None and result.top_logprobs is not None:
                pairs = zip(result.top_ids[index].tolist(), result.top_logprobs[index].tolist(), strict=True)
                row.tops.append(list(pairs))
