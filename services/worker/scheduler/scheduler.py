"""The scheduler: plans a step, and takes in its result while the next one runs.

It works ahead of results. A sequence that decodes is taken to yield one id a step, so its next position, its next
block and its end by length are known before the id itself. Only an end by a stop id is noticed late: what was
drawn after it is dropped. Blocks and slots are given back when no step under way names them any more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from services.common.messages import frames
from services.worker.cache import PrefixCache
from services.worker.runner.plan import PrefillChunk, SlotStart, StepPlan, StepResult
from services.worker.scheduler.admission import Limits, MemoryEstimate, is_worth_waiting
from services.worker.scheduler.batch import Batch
from services.worker.scheduler.sequence import Sequence, State, StepOutcome
from services.worker.scheduler.trial import Trial
from services.worker.scheduler.waiting import WaitingQueue


@dataclass(slots=True)
class _Step:
    """A planned step: whose rows it has, in the order of its result."""

    number: int
    sampled: list[Sequence]
    chunks: list[tuple[Sequence, int]]  # (sequence, end of its chunk)
    scored: list[tuple[Sequence, range]] = field(default_factory=list)  # (sequence, prompt ids to score)


class Scheduler:
    """Call schedule() and launch its plan; call collect() with each plan's result, in order."""

    def __init__(self, limits: Limits, cache: PrefixCache) -> None:
        # With more slots than tokens in a step, decode rows would leave no room for a prompt, or not all fit.
        self._batch = Batch(min(limits.max_running, limits.max_step_tokens), cache)
        self.limits, self.cache = limits, cache
        self._waiting = WaitingQueue()
        self._computing: dict[bytes, Sequence] = {}  # names of blocks that a prefill will publish
        self._in_flight: deque[_Step] = deque()
        self._news = StepOutcome()
        self._next_step = 0
        self._last_collected = -1
        self._trial = Trial()
        self._can_admit = True  # False: the head did not fit, and nothing was given back since

    # ---- figures

    @property
    def num_running(self) -> int:
        return len(self._batch)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def has_work(self) -> bool:
        return bool(self._batch or self._waiting or self._in_flight)

    def to_blame(self) -> list[int]:
        """Handles of the sequences one of which may be why a step failed: those of the steps under way."""
        suspect = self._trial.suspect()
        if suspect is not None:
            return [suspect.handle]
        handles = {s.handle: None for step in self._in_flight for s in step.sampled}
        handles |= {s.handle: None for step in self._in_flight for s, _ in step.chunks}
        return list(handles)

    def on_trial(self) -> Sequence | None:
        """The suspect that is the only one to be let in at present."""
        return self._trial.suspect()

    # ---- commands

    def add(self, sequence: Sequence) -> bool:
        """Puts a sequence in line. False when its ids show that it has ended already."""
        assert sequence.num_prompt > 0
        assert sequence.last_position <= self.cache.pool.num_usable * self.cache.block_size
        if sequence.finish() != frames.RUNNING:
            sequence.state = State.FINISHED
            return False
        self._waiting.push(sequence)
        self._can_admit = True
        return True

    def cancel(self, sequence: Sequence) -> None:
        """Takes a sequence out, in whatever state. Its blocks are free once the step under way is done."""
        if sequence.state is State.WAITING:
            sequence.state = State.FINISHED
            self._waiting.forget()
            self._can_admit = True
        elif sequence.state is not State.FINISHED:
            self._leave(sequence, State.FINISHED)
            self._batch.sweep()
            self._release_left()

    # ---- planning

    def schedule(self) -> StepPlan | None:
        """The next step, or None when there is nothing to run. The plan must then be launched."""
        for under_way in self._in_flight:
            self._publish_chunks(under_way)
        plan, step = StepPlan(self._next_step), _Step(self._next_step, [], [])
        ending = self._plan_decodes(plan, step)
        if self._batch.prefilling or (self._can_admit and self._waiting):
            ending += self._plan_prompts(plan, step)
        if not step.sampled and not step.chunks:
            return None
        if ending or step.chunks:
            self._settle_states(step, ending)
        self._next_step += 1
        self._in_flight.append(step)
        return plan

    def _plan_prompts(self, plan: StepPlan, step: _Step) -> list[Sequence]:
        """Gives what the decodes leave of the step to prompts. Returns those for whom this step is the last."""
        num_decodes = len(plan.decode_slots)
        budget = self.limits.prefill_budget(num_decodes, self.num_running + self.num_waiting)
        for sequence in self._batch.prefilling:
            if budget <= 0:
                break
            budget -= self._plan_chunk(sequence, budget, plan, step)
        if budget > 0 and self._can_admit and self._waiting and self._trial.suspect() is None:
            estimate = MemoryEstimate(self._batch.running, self.cache, self.limits)
            while budget > 0 and (admitted := self._admit(budget, estimate, plan)) is not None:
                budget -= self._plan_chunk(admitted, budget, plan, step)
        return [s for s in step.sampled[num_decodes:] if s.num_planned == s.last_position]

    def _plan_decodes(self, plan: StepPlan, step: _Step) -> list[Sequence]:
        """Returns those for whom this step is the last. What is done per row here is paid by every token."""
        needing = [s for s in self._batch.decoding if s.num_planned == s.capacity]
        stalled: set[int] = set()
        if len(needing) > self.cache.pool.num_free:
            needing, stalled = self._make_room(needing)
        if needing:
            plan.table_slots = [s.slot for s in needing]
            plan.table_columns = [len(s.blocks) for s in needing]
            plan.table_blocks = self.cache.pool.allocate(len(needing))
            self._batch.add_block_each(needing, plan.table_blocks)
        number, ending = plan.step, []
        decoding = self._batch.decoding
        step.sampled = [s for s in decoding if s.slot not in stalled] if stalled else decoding[:]
        plan.decode_slots = [s.slot for s in step.sampled]
        for sequence in step.sampled:
            sequence.num_planned = planned = sequence.num_planned + 1
            sequence.last_step = number
            if planned == sequence.last_position:
                ending.append(sequence)
        return ending

    def _make_room(self, needing: list[Sequence]) -> tuple[list[Sequence], set[int]]:
        """Preempts until the rest fits, now or once the steps under way are done.

        Returns who gets a block now, and the slots of those that sit out this step.
        """
        pool = self.cache.pool
        needing = sorted(needing, key=lambda s: s.order)
        while self.num_running > 1:
            if len(needing) <= pool.num_free + self._batch.num_blocks_leaving():
                break
            victim = max(self._batch.running, key=lambda s: s.order)
            self._leave(victim, State.PREEMPTED)
            self._batch.sweep()
            self._release_left()
            self._news.preempted.append(victim)
            if victim in needing:
                needing.remove(victim)
        num_now = min(len(needing), pool.num_free)
        return needing[:num_now], {s.slot for s in needing[num_now:]}

    def _plan_chunk(self, sequence: Sequence, budget: int, plan: StepPlan, step: _Step) -> int:
        """Plans the next tokens of a prompt; returns how many."""
        start = sequence.num_planned
        size = min(sequence.target - start, self.limits.max_chunk_tokens, budget)
        end = start + size
        samples = end == sequence.target
        ids = np.array(sequence.ids[start:end], np.int32)
        chunk = PrefillChunk(sequence.slot, start, ids, samples)
        if scored := sequence.scored_by(start, end):
            scored_ids = np.array(sequence.ids[scored.start : scored.stop], np.int32)
            first_row = scored.start - 1 - start
            chunk = replace(
                chunk, scored_ids=scored_ids, first_scored=first_row, num_top=sequence.prompt_logprobs
            )
            step.scored.append((sequence, scored))
        plan.prefills.append(chunk)
        step.chunks.append((sequence, end))
        if samples:
            step.sampled.append(sequence)
        sequence.num_planned = end
        sequence.last_step = plan.step
        return size

    def _settle_states(self, step: _Step, ending: list[Sequence]) -> None:
        """Moves on those whose prompt or whose last position is now planned."""
        for sequence in ending:
            self._leave(sequence, State.ENDING)
        for sequence, end in step.chunks:
            if end == sequence.target and sequence.state is State.PREFILL:
                self._batch.start_decoding(sequence)
        self._batch.sweep()

    # ---- admission

    def _admit(self, budget: int, estimate: MemoryEstimate, plan: StepPlan) -> Sequence | None:
        """Gives the first in line a slot and blocks for all its ids, if they are there."""
        while self._can_admit and self._batch.has_slot and (head := self._waiting.head()) is not None:
            if self._trial.suspect() is not None:
                return None
            head.chain.extend(head.ids, len(head.ids))
            names = head.chain.names[: self.cache.num_matchable(head.num_cacheable)]
            found = self.cache.match(names)
            if is_worth_waiting(head, names[len(found) :], self._computing, self.cache.block_size):
                self._waiting.hold()
                continue
            if not self.limits.can_chunk and len(head.ids) - len(found) * self.cache.block_size > budget:
                return None
            if not estimate.has_room(head, found):
                self._can_admit = False
                return None
            self._start(self._waiting.pop(), found, plan)
            estimate.add(head)
            return head
        return None

    def _start(self, sequence: Sequence, found: list[int], plan: StepPlan) -> None:
        pool, size = self.cache.pool, self.cache.block_size
        sequence.num_shared = sum(pool.references(block) > 0 for block in found)
        pool.retain(found)
        self._batch.enter(sequence)
        if sequence.is_suspect:
            self._trial.begin(sequence)
        sequence.target = len(sequence.ids)
        sequence.num_planned = len(found) * size
        sequence.num_published = len(found)
        if sequence.cached_tokens < 0:
            sequence.cached_tokens = min(sequence.num_planned, sequence.num_prompt)
        self._batch.add_blocks(sequence, found)
        self._batch.add_blocks(sequence, pool.allocate(self.cache.blocks_for(sequence.target) - len(found)))
        for name in sequence.chain.names[len(found) :]:
            self._computing.setdefault(name, sequence)
        prompt = sequence.ids[: sequence.num_prompt] if sequence.sampling.has_penalties else []
        outputs = sequence.ids[sequence.num_prompt :]
        plan.starts.append(
            SlotStart(
                sequence.slot,
                sequence.sampling,
                np.array(prompt, np.int32),
                np.array(outputs, np.int32),
                sequence.num_prompt,
            )
        )
        plan.set_blocks(sequence.slot, 0, sequence.blocks)
        self._news.admitted.append(sequence)

    # ---- results

    def collect(self, result: StepResult) -> StepOutcome:
        """Takes in the result of the oldest step under way, and says what became known since the last."""
        step = self._in_flight.popleft()
        assert result.step == step.number, f"result of step {result.step}, expected {step.number}"
        self._last_collected = step.number
        self._publish_chunks(step)
        outcome, self._news = self._news, StepOutcome()
        if step.scored:
            _take_scores(step.scored, outcome)
        self._append_ids(step.sampled, result.token_ids.tolist(), outcome)
        if outcome.finish:
            self._batch.sweep()
        if self._batch.leaving:
            self._release_left()
        return outcome

    def _append_ids(self, sampled: list[Sequence], tokens: list[int], outcome: StepOutcome) -> None:
        """The one pass over all rows of a step; what is done per row here is paid by every token."""
        outcome.result_rows = list(range(len(sampled)))
        if (
            self._batch.leaving
        ):  # only then can one have been cancelled, or ended by the id before: drawn in vain
            finished = State.FINISHED
            outcome.result_rows = [row for row in outcome.result_rows if sampled[row].state is not finished]
            sampled = [sampled[row] for row in outcome.result_rows]
            tokens = [tokens[row] for row in outcome.result_rows]
        outcome.handles = [sequence.handle for sequence in sampled]
        outcome.ids = tokens
        add_index = outcome.index.append
        for sequence, token in zip(sampled, tokens, strict=True):
            ids = sequence.ids
            length = len(ids)
            ids.append(token)
            add_index(length - sequence.num_prompt)
            if length >= sequence.notice_at or token in sequence.stop_ids:
                self._notice(sequence, length, len(outcome.index) - 1, outcome)

    def _notice(self, sequence: Sequence, length: int, row: int, outcome: StepOutcome) -> None:
        """What an id after ``length`` others may mean: a block is full, or the sequence ends."""
        size, last = self.cache.block_size, sequence.last_position
        if not length % size:
            self._publish(sequence, length)
        sequence.notice_at = min((length // size + 1) * size, last)
        if length >= last or sequence.ids[-1] in sequence.stop_ids:
            finish = sequence.finish()
            if finish != frames.RUNNING:
                outcome.finish[row] = finish
                self._leave(sequence, State.FINISHED)

    def _publish_chunks(self, step: _Step) -> None:
        """Lets later steps find the full blocks of this step's prompts: plans run strictly in order."""
        for sequence, end in step.chunks:
            if sequence.blocks and sequence.num_published < end // self.cache.block_size:
                self._publish(sequence, end)
                self._waiting.unhold()
                self._can_admit = True

    def _publish(self, sequence: Sequence, num_computed: int) -> None:
        """Names the full blocks of the first ``num_computed`` positions, whose ids must be known."""
        sequence.chain.extend(sequence.ids, num_computed)
        names, computing = sequence.chain.names, self._computing
        for i in range(sequence.num_published, num_computed // self.cache.block_size):
            self.cache.publish(sequence.blocks[i], names[i])
            if computing and computing.get(names[i]) is sequence:
                del computing[names[i]]
            sequence.num_published = i + 1

    # ---- leaving

    def _leave(self, sequence: Sequence, state: State) -> None:
        """Takes a sequence out of the batch. A sweep() and a _release_left() must follow."""
        was_prefilling = sequence.state is State.PREFILL
        self._batch.leave(sequence, state)
        if was_prefilling and state is not State.ENDING:
            for name in sequence.chain.names:
                if self._computing.get(name) is sequence:
                    del self._computing[name]
            self._waiting.unhold()

    def _release_left(self) -> None:
        """Frees what no step under way names any more; who was preempted waits again."""
        for sequence in self._batch.release(self._last_collected):
            self._can_admit = True
            if sequence.state is State.PREEMPTED:
                self._waiting.push(sequence)

    # ---- invariants

    def check(self) -> None:
        """Asserts what must hold between any two calls."""
        self._batch.check(self._last_collected)
        self._waiting.check()
        assert all(owner.blocks for owner in self._computing.values())
        assert all(not s.blocks and s.slot == -1 for s in self._waiting.sequences())
        assert not self._waiting.num_held or self._computing, "sequences wait for a prefix nobody computes"


def _take_scores(scored: list[tuple[Sequence, range]], outcome: StepOutcome) -> None:
    """A sequence that was preempted meanwhile keeps them: it computes what comes after."""
    at = 0
    for sequence, ids in scored:
        if sequence.state is not State.FINISHED:
            sequence.num_scored = ids.stop
            outcome.scored.append((sequence, ids, at))
        at += len(ids)
