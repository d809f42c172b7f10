"""One choice as the gateway receives it: exactly once, in order, from frames that may be lost or doubled."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.common.messages.frames import ERROR, RUNNING, PromptLogprobs, RowLogprobs
from services.gateway.life.spec import RestoredChoice


@dataclass(slots=True)
class Row:
    """One row of a TextFrame."""

    attempt: int
    first: int
    ids: list[int]
    text: str
    text_offset: int
    finish: int = RUNNING
    cached_tokens: int = 0
    stop_reason: int | str | None = None
    error: str = ""
    logprobs: RowLogprobs | None = None
    prompt_logprobs: PromptLogprobs | None = None


@dataclass(slots=True)
class Delta:
    """What came of one choice since it was last taken. Grows while the reader is slow; never more than the output.

    ``num_ids`` and ``num_chars`` are the choice's position after this delta.
    """

    choice: int
    ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # to be joined
    logprobs: RowLogprobs | None = None
    finish: int = RUNNING
    stop_reason: int | str | None = None
    num_ids: int = 0
    num_chars: int = 0
    cached_tokens: int = 0
    prompt_logprobs: PromptLogprobs | None = None  # of the whole prompt, where they were asked for

    @property
    def text(self) -> str:
        return "".join(self.texts)


class StreamState:
    """The receiver of one choice. Pure: times are passed in.

    ``accept`` takes a row if it continues what is there, and uses the new part of one that overlaps. What it
    cannot use is either known already or beyond a gap; a gap sets ``has_gap`` until the missing part arrives.
    """

    def __init__(self, choice: int, seed: int) -> None:
        self.choice, self.seed = choice, seed
        self.output_ids: list[int] = []
        self.num_chars = 0
        self.finish = RUNNING
        self.error = ""
        self.has_gap = False
        self.progress_at = 0.0  # when something new last arrived, or the attempt was held by its worker
        self.reported_next = 0  # what the worker says it has made, in the current attempt
        self.reported_finished = False
        self.num_replays = 0  # asked for since the last progress
        self.replayed_at = 0.0
        self._pending: Delta | None = None
        self._cached_tokens: int | None = None  # of the first attempt

    @property
    def is_finished(self) -> bool:
        return self.finish != RUNNING

    @property
    def next_index(self) -> int:
        return len(self.output_ids)

    @property
    def is_behind(self) -> bool:
        """Whether the worker has sent something that has not arrived."""
        if self.is_finished:
            return False
        return self.has_gap or self.reported_finished or self.reported_next > self.next_index

    def accept(self, row: Row, now: float) -> bool:
        """Takes a row of the current attempt; True when it brought something new."""
        if self.is_finished:
            return False
        if row.first > self.next_index or row.text_offset > self.num_chars:
            self.has_gap = True
            return False
        end = row.first + len(row.ids)
        if end < self.next_index or (
            end == self.next_index and row.finish == RUNNING and not self._has_new_text(row)
        ):
            return False
        skip = self.next_index - row.first
        new_ids = row.ids[skip:]
        new_text = row.text[self.num_chars - row.text_offset :]
        self.output_ids += new_ids
        self.num_chars += len(new_text)
        self.finish, self.error = row.finish, row.error
        self.has_gap = False
        self.progress_at, self.num_replays = now, 0
        if self._cached_tokens is None:
            self._cached_tokens = row.cached_tokens
        self._merge(row, skip, new_ids, new_text)
        return True

    def _has_new_text(self, row: Row) -> bool:
        return row.text_offset + len(row.text) > self.num_chars

    def _merge(self, row: Row, skip: int, new_ids: list[int], new_text: str) -> None:
        delta = self._pending
        if delta is None:
            delta = self._pending = Delta(self.choice, cached_tokens=self._cached_tokens or 0)
        delta.ids += new_ids
        delta.texts.append(new_text)
        delta.finish = row.finish
        delta.stop_reason = row.stop_reason
        delta.num_ids, delta.num_chars = self.next_index, self.num_chars
        if row.logprobs is not None and new_ids:
            part = cut_logprobs(row.logprobs, skip)
            if delta.logprobs is None:
                delta.logprobs = no_logprobs(len(delta.ids) - len(new_ids), part.num_top)
            extend_logprobs(delta.logprobs, part)

    def take(self) -> Delta | None:
        """What came since the last call, merged; None when nothing did."""
        delta, self._pending = self._pending, None
        return delta

    @property
    def failed(self) -> bool:
        return self.finish == ERROR

    def restore(self, known: RestoredChoice) -> None:
        """Begins with what a log has of the choice; all of it is given out as the first delta."""
        ids, text = known.ids, known.text
        self.output_ids, self.num_chars, self.finish = list(ids), len(text), known.finish
        if ids or known.finish != RUNNING:
            self._cached_tokens = known.cached_tokens
            delta = self._pending = Delta(self.choice, list(ids), [text], finish=known.finish)
            delta.stop_reason, delta.cached_tokens = known.stop_reason, known.cached_tokens
            delta.num_ids, delta.num_chars = len(ids), len(text)

    def begin_attempt(self, now: float) -> None:
        """Forgets what was said of the former attempt; what arrived stays."""
        self.has_gap = self.reported_finished = False
        self.reported_next = self.num_replays = 0
        self.progress_at = now


def cut_logprobs(logprobs: RowLogprobs, skip: int) -> RowLogprobs:
    """Without the first ``skip`` ids' values."""
    if not skip:
        return logprobs
    top = skip * logprobs.num_top
    return RowLogprobs(
        logprobs.values[skip:], logprobs.num_top, logprobs.top_ids[top:], logprobs.top_values[top:]
    )


def no_logprobs(count: int, num_top: int) -> RowLogprobs:
    """Zeros for ids that a log brought: it keeps no log probabilities, and the client has had them."""
    top = count * num_top
    return RowLogprobs([0.0] * count, num_top, [0] * top, [0.0] * top)


def extend_logprobs(known: RowLogprobs, new: RowLogprobs) -> None:
    known.values += new.values
    known.top_ids += new.top_ids
    known.top_values += new.top_values
