"""One stream's log: what was made of it, kept for replays."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.common.messages.frames import PromptLogprobs, RowLogprobs, StreamInfo
from services.common.messages.request import StreamParams

PROMPT_TAIL_IDS = 16


@dataclass(slots=True)
class StreamLog:
    """A stream in one attempt. ``ids`` are all its ids from index 0, earlier attempts' too."""

    handle: int
    stream: str
    request_id: str
    attempt: int
    gateway_id: str
    detokenizer_id: str
    params: StreamParams
    prompt_tail: list[int]
    min_tokens: int
    num_uncomputed: int  # prompt ids that stand between it and its first new id
    ids: list[int]
    num_prior: int  # of ``ids``, those of earlier attempts
    num_top: int = -1  # likeliest ids wanted for each id; -1: no log probabilities
    max_tokens: int = 1  # 0: what the engine draws is not shown
    cached_tokens: int = 0
    finish: int = 0
    has_ended: bool = False  # finished, or ended from outside; nothing more comes
    has_sent: bool = False  # its first row, with the StreamInfo, has gone out
    stop_id: int | None = None
    error: str = ""
    prompt: list[PromptLogprobs] = field(default_factory=list)  # in order
    values: list[float] = field(default_factory=list)  # log probabilities of ids[num_prior:]
    top_ids: list[int] = field(default_factory=list)
    top_values: list[float] = field(default_factory=list)

    def info(self, prior_ids: list[int]) -> StreamInfo:
        return StreamInfo(self.gateway_id, self.params, prior_ids, self.prompt_tail, self.min_tokens)

    @property
    def num_prompt_bytes(self) -> int:
        """What the prompt's log probabilities take."""
        return sum(part.num_bytes for part in self.prompt)

    def append_logprobs(self, row: RowLogprobs) -> None:
        self.values += row.values
        self.top_ids += row.top_ids
        self.top_values += row.top_values

    def logprobs_of(self, start: int, end: int) -> RowLogprobs | None:
        """Those of ids[start:end]. Ids of earlier attempts have zeros: their receiver has them already."""
        if self.num_top < 0:
            return None
        k, prior = self.num_top, max(0, min(end, self.num_prior) - start)
        a, b = max(start, self.num_prior) - self.num_prior, max(end, self.num_prior) - self.num_prior
        return RowLogprobs(
            [0.0] * prior + self.values[a:b],
            k,
            [0] * (prior * k) + self.top_ids[a * k : b * k],
            [0.0] * (prior * k) + self.top_values[a * k : b * k],
        )
