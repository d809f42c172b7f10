"""One choice of a request as the scheduler sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from services.common.messages import frames
from services.worker.cache import HashChain
from services.worker.runner.plan import SlotSampling


class State(IntEnum):
    WAITING = 0  # in the queue; holds nothing
    PREFILL = 1  # has slot and blocks; its ids are being computed
    DECODE = 2  # yields one id a step
    ENDING = 3  # its last step is planned; what it drew is still under way
    PREEMPTED = 4  # gives up its blocks as soon as the step under way is done, then waits again
    FINISHED = 5  # ended or cancelled; holds blocks at most until the step under way is done


@dataclass(slots=True, eq=False)
class Sequence:
    """Owned by one Scheduler, which alone changes it.

    ``ids`` are the prompt's and then the known output ids. ``num_planned`` counts the positions whose KV the
    plans so far write, so it may run ahead of ``ids`` by the steps whose results are unknown.
    """

    handle: int  # the engine's name of the stream
    request_id: str
    ids: list[int]
    num_prompt: int
    max_tokens: int  # output ids over all attempts
    sampling: SlotSampling
    order: tuple[int, int]  # (priority, arrival): lower goes first and is preempted last
    chain: HashChain
    stop_ids: frozenset[int] = frozenset()
    is_suspect: bool = False  # engines have died under its request: see trial.py
    prompt_logprobs: int = -1  # likeliest ids wanted beside each prompt id's log probability; -1: nothing
    state: State = State.WAITING
    slot: int = -1
    blocks: list[int] = field(default_factory=list)
    capacity: int = 0  # positions that ``blocks`` hold
    target: int = 0  # positions to compute before the next id is drawn, fixed at admission
    num_planned: int = 0
    num_published: int = 0  # blocks that are named in the cache
    num_shared: int = 0  # blocks that others used already when this one was admitted
    notice_at: int = (
        0  # with fewer ids, one more is only noted: no block is full, and it cannot be the last one
    )
    last_step: int = -1  # the last step that names it
    cached_tokens: int = -1  # prompt ids found in the cache at the first admission
    last_position: int = field(init=False)  # KV positions that it needs at most: the last id drawn needs none
    num_scored: int = field(init=False)  # prompt ids whose log probabilities are known, or not wanted

    def __post_init__(self) -> None:
        self.last_position = self.num_prompt + self.max_tokens - 1
        self.num_scored = self.num_prompt if self.prompt_logprobs < 0 else 1

    @property
    def num_outputs(self) -> int:
        return len(self.ids) - self.num_prompt

    @property
    def is_running(self) -> bool:
        return self.state in (State.PREFILL, State.DECODE)

    @property
    def num_cacheable(self) -> int:
        """All its blocks may come from the cache, but for the one of the last of so many ids.

        A position in front of an id that is still to be scored must be computed: the cache has no logits.
        """
        return len(self.ids) if self.num_scored == self.num_prompt else self.num_scored

    def scored_by(self, start: int, end: int) -> range:
        """The prompt ids that positions start .. end - 1 score: each position the id after it."""
        return range(max(start + 1, self.num_scored), min(end + 1, self.num_prompt))

    def finish(self) -> int:
        """The finish code that its ids call for."""
        num_outputs = self.num_outputs
        if num_outputs > self.sampling.min_tokens and self.ids[-1] in self.stop_ids:
            return frames.STOP
        return frames.LENGTH if num_outputs >= self.max_tokens else frames.RUNNING


@dataclass(slots=True)
class StepOutcome:
    """What became known with one step's result. The lists from ``handles`` to ``result_rows`` are columns."""

    handles: list[int] = field(default_factory=list)
    index: list[int] = field(default_factory=list)  # of the id in its sequence's output, over all attempts
    ids: list[int] = field(default_factory=list)
    result_rows: list[int] = field(default_factory=list)  # where the id stands in the StepResult
    scored: list[tuple[Sequence, range, int]] = field(
        default_factory=list
    )  # prompt ids scored, and where the first of them stands in the StepResult's prompt
    finish: dict[int, int] = field(
        default_factory=dict
    )  # row of these columns -> finish code, where it ended
    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
