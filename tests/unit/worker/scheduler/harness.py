"""Drives a real scheduler over the fake runner, with any number of steps under way."""

from __future__ import annotations

from collections import deque

from services.common.blockhash import chain_root
from services.worker.cache import HashChain, PrefixCache
from services.worker.runner.plan import SlotSampling
from services.worker.scheduler import Limits, Scheduler, Sequence, StepOutcome
from tests.fakes.runner import FakeHandle, FakeRunner, expected_ids, expected_scores


class Harness:
    def __init__(
        self,
        *,
        num_blocks: int = 40,
        block_size: int = 4,
        max_running: int = 8,
        max_step_tokens: int = 32,
        max_chunk_tokens: int = 32,
        can_chunk: bool = True,
        conservativeness: float = 0.5,
        depth: int = 1,
    ) -> None:
        self.cache = PrefixCache(num_blocks, block_size)
        limits = Limits(max_running, max_step_tokens, max_chunk_tokens, can_chunk, conservativeness)
        self.scheduler = Scheduler(limits, self.cache)
        self.runner = FakeRunner(
            num_blocks=num_blocks,
            block_size=block_size,
            max_slots=max_running,
            max_step_tokens=max_step_tokens,
        )
        self.depth = depth
        self.handles: deque[FakeHandle] = deque()
        self.sequences: list[Sequence] = []
        self.emitted: dict[int, list[int]] = {}
        self.scores: dict[int, list[float]] = {}
        self.finished: dict[int, int] = {}
        self.num_preempted = 0
        self.largest_batch = 0

    def add(
        self,
        prompt: list[int],
        max_tokens: int = 8,
        *,
        request_id: str = "",
        seed: int = 0,
        priority: int = 0,
        stop_ids: frozenset[int] = frozenset(),
        outputs: list[int] | None = None,
        salt: str = "",
        min_tokens: int = 0,
        prompt_logprobs: int = -1,
        is_suspect: bool = False,
    ) -> Sequence:
        handle = len(self.sequences)
        sequence = Sequence(
            handle=handle,
            request_id=request_id or f"r{handle}",
            ids=prompt + (outputs or []),
            num_prompt=len(prompt),
            max_tokens=max_tokens,
            sampling=SlotSampling(seed=seed, min_tokens=min_tokens),
            order=(priority, handle),
            chain=HashChain(chain_root(cache_salt=salt), self.cache.block_size),
            stop_ids=stop_ids,
            prompt_logprobs=prompt_logprobs,
            is_suspect=is_suspect,
        )
        self.sequences.append(sequence)
        self.emitted[handle] = list(outputs or [])
        self.scores[handle] = []
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> StepOutcome | None:
        """One turn of the loop: launch the next step, then read the oldest if enough are under way."""
        plan = self.scheduler.schedule()
        self.scheduler.check()
        if plan is not None:
            self.largest_batch = max(self.largest_batch, len(plan.decode_slots))
            self.handles.append(self.runner.launch(plan))
        if not self.handles or (plan is not None and len(self.handles) <= self.depth):
            return None
        result = self.handles.popleft().result()
        outcome = self.scheduler.collect(result)
        self.scheduler.check()
        self.num_preempted += len(outcome.preempted)
        for row, (handle, index, token) in enumerate(
            zip(outcome.handles, outcome.index, outcome.ids, strict=True)
        ):
            assert handle not in self.finished, "a row after the end"
            assert index == len(self.emitted[handle]), "an index is missing or doubled"
            self.emitted[handle].append(token)
            if row in outcome.finish:
                self.finished[handle] = outcome.finish[row]
        for sequence, ids, at in outcome.scored:
            assert result.prompt is not None
            known = self.scores[sequence.handle]
            assert ids.start == len(known) + 1, "a prompt id is scored twice or not at all"
            known += result.prompt.logprobs[at : at + len(ids)].tolist()
        return outcome

    def run(self, max_steps: int = 5000) -> None:
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                assert self.cache.pool.num_free == self.cache.pool.num_usable, "blocks are lost"
                return
            self.step()
        raise AssertionError("the scheduler makes no progress")

    def expected(self, sequence: Sequence) -> list[int]:
        prompt = sequence.ids[: sequence.num_prompt]
        return expected_ids(
            prompt,
            sequence.sampling.seed,
            sequence.max_tokens,
            self.runner.info.vocab_size,
            sequence.stop_ids,
        )

    def assert_exact(self) -> None:
        for sequence in self.sequences:
            assert self.emitted[sequence.handle] == self.expected(sequence)
            self.assert_scored(sequence)

    def assert_scored(self, sequence: Sequence) -> None:
        wanted = sequence.prompt_logprobs >= 0
        prompt = sequence.ids[: sequence.num_prompt]
        assert self.scores[sequence.handle] == (expected_scores(prompt) if wanted else [])
