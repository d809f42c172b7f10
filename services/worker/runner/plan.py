"""What one step does and what it returned: plain data between the engine, the runner and the ranks.

No torch here: the engine's pure parts import this file. A plan says only what changed since the last
plan; sampling parameters, block tables and each sequence's last token stay with the runner, by *slot*.
A slot is a row in those per-sequence tables, 0 <= slot < max_slots; the engine hands slots out and may give
a slot to another sequence in any later plan (a SlotStart resets all that the slot held).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]
Float32Array = NDArray[np.float32]

MAX_BAD_WORD_TOKENS = 16
"""The longest bad word, in tokens: the runner keeps this many less one of a sequence's last tokens."""


def _no_ids() -> Int32Array:
    return np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class SlotSampling:
    """How a sequence's tokens are chosen. The defaults are greedy decoding with nothing else.

    temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 mean off; the penalties' neutral values are 0, 0
    and 1. `logprobs` None returns none, 0 the chosen token's, k the k likeliest besides.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)
    allowed_token_ids: list[int] | None = None
    bad_words: list[list[int]] = field(default_factory=list)
    """Token sequences that are never completed; matched against the tokens generated, not the prompt."""
    min_tokens: int = 0
    """`stop_ids` cannot be drawn before this many tokens have been generated."""
    stop_ids: list[int] = field(default_factory=list)
    """The ids that end this sequence (end-of-sequence ids and stop_token_ids); used by min_tokens alone."""

    @property
    def has_penalties(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0)


@dataclass(frozen=True, slots=True)
class SlotStart:
    """A sequence takes a slot: newly admitted, or resumed after a preemption or on another worker.

    `output_ids` are the ids generated so far, in order: the next token drawn has index len(output_ids).
    `prompt_ids` may be empty unless sampling.has_penalties (they fill the repetition penalty's mask).
    """

    slot: int
    sampling: SlotSampling
    prompt_ids: Int32Array = field(default_factory=_no_ids)
    output_ids: Int32Array = field(default_factory=_no_ids)
    prompt_length: int = 0
    """Tokens in the prompt; matters where it is over RunnerInfo.max_shared_prompt, 0 being short."""


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Tokens of one sequence to run at positions start .. start + len(token_ids) - 1.

    The KV of positions before `start` is in the slot's blocks (an earlier chunk or a prefix hit). With
    `samples` the chunk is the last of its prompt, and the token after it is drawn. A slot has at most one
    row in a plan: a chunk or a decode.
    """

    slot: int
    start: int
    token_ids: Int32Array
    samples: bool
    scored_ids: Int32Array = field(default_factory=_no_ids)
    """Prompt ids whose log-probabilities are wanted: scored_ids[i] is what follows token_ids[first_scored + i]."""
    first_scored: int = 0
    num_top: int = 0
    """The likeliest ids wanted besides each scored one."""


@dataclass(slots=True)
class StepPlan:
    """One step. Applied in this order: starts, block table writes, then the rows run and sample.

    Decode rows need no ids: row i feeds the token last drawn for decode_slots[i], which need not have
    reached the host, at the position after the slot's last. Rows are ordered decodes, then prefills.
    """

    step: int
    starts: list[SlotStart] = field(default_factory=list)
    decode_slots: list[int] = field(default_factory=list)
    prefills: list[PrefillChunk] = field(default_factory=list)
    # Block table writes, three parallel lists: table[table_slots[i], table_columns[i]] = table_blocks[i].
    # Column c holds positions c * block_size onwards. Block 0 is the runner's own and is never written here.
    table_slots: list[int] = field(default_factory=list)
    table_columns: list[int] = field(default_factory=list)
    table_blocks: list[int] = field(default_factory=list)

    def set_blocks(self, slot: int, first_column: int, blocks: list[int]) -> None:
        """Writes `blocks` into the slot's block table from `first_column` on."""
        self.table_slots += [slot] * len(blocks)
        self.table_columns += range(first_column, first_column + len(blocks))
        self.table_blocks += blocks

    @property
    def num_tokens(self) -> int:
        return len(self.decode_slots) + sum(len(chunk.token_ids) for chunk in self.prefills)

    @property
    def sampled_slots(self) -> list[int]:
        """The slot of each row of the step's result, in order."""
        return self.decode_slots + [chunk.slot for chunk in self.prefills if chunk.samples]

    @property
    def has_scored(self) -> bool:
        """Whether log-probabilities of prompt ids are wanted."""
        return any(len(chunk.scored_ids) for chunk in self.prefills)


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Log-probabilities of N prompt ids: every chunk's scored_ids, one chunk after the other.

    Of the model's own distribution, in float32. `ranks` count from 1, the likeliest id. `top_ids` and
    `top_logprobs` are [N, k], likeliest first, with k the largest that any chunk asked for.
    """

    logprobs: Float32Array
    ranks: Int32Array
    top_ids: Int32Array
    top_logprobs: Float32Array


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step drew, one row for each of plan.sampled_slots, in that order.

    The log-probabilities are of the model's own distribution (before temperature, penalties and
    masks), natural logarithm. `logprobs` is None unless a row of the step asked for them; `top_ids` and
    `top_logprobs` are [rows, k], likeliest first, with k the largest that any row asked for (k may be 0).
    """

    step: int
    slots: Int32Array
    token_ids: Int32Array
    logprobs: Float32Array | None = None
    top_ids: Int32Array | None = None
    top_logprobs: Float32Array | None = None
    prompt: PromptScores | None = None
    """Set if the plan `has_scored`."""


def encode_plan(plan: StepPlan) -> bytes:
    """The plan as msgpack, for ranks in other processes. Token ids travel as packed int32."""
    return msgpack.packb(
        (
            plan.step,
            [
                (s.slot, asdict(s.sampling), _pack(s.prompt_ids), _pack(s.output_ids), s.prompt_length)
                for s in plan.starts
            ],
            _pack(plan.decode_slots),
            [
                (
                    c.slot,
                    c.start,
                    _pack(c.token_ids),
                    c.samples,
                    _pack(c.scored_ids),
                    c.first_scored,
                    c.num_top,
                )
                for c in plan.prefills
            ],
            _pack(plan.table_slots),
            _pack(plan.table_columns),
            _pack(plan.table_blocks),
        )
    )


def decode_plan(data: bytes) -> StepPlan:
    """The inverse of encode_plan. Raises ValueError if `data` is no plan."""
    fields: Any = msgpack.unpackb(data, strict_map_key=False)
    step, starts, decode_slots, prefills, table_slots, table_columns, table_blocks = fields
    return StepPlan(
        step=step,
        starts=[SlotStart(s, SlotSampling(**p), _unpack(a), _unpack(b), n) for s, p, a, b, n in starts],
        decode_slots=_unpack(decode_slots).tolist(),
        prefills=[
            PrefillChunk(slot, start, _unpack(ids), samples, _unpack(scored), first, num_top)
            for slot, start, ids, samples, scored, first, num_top in prefills
        ],
        table_slots=_unpack(table_slots).tolist(),
        table_columns=_unpack(table_columns).tolist(),
        table_blocks=_unpack(table_blocks).tolist(),
    )


def _pack(ids: Int32Array | list[int]) -> bytes:
    return np.asarray(ids, np.int32).tobytes()


def _unpack(data: bytes) -> Int32Array:
    return np.frombuffer(data, np.int32)
