"""A prompt's log probabilities as the gateway receives them: each once, in order, from frames that may be lost or doubled."""

from __future__ import annotations

from services.common.messages.frames import PromptLogprobs


class PromptScores:
    """Those of the ids 1 .. num_prompt - 1: a prompt's first id has none."""

    def __init__(self, num_prompt: int) -> None:
        self._num_prompt = num_prompt
        self._parts: list[PromptLogprobs] = []
        self._next = 1
        self._whole: PromptLogprobs | None = None

    @property
    def is_complete(self) -> bool:
        return self._next >= self._num_prompt

    def leaves_gap(self, part: PromptLogprobs) -> bool:
        """Whether something before the part is missing."""
        return part.first > self._next

    def accept(self, part: PromptLogprobs) -> bool:
        """Takes a well-formed part's new ids; True when there were some and nothing before them is missing."""
        end = part.first + part.count
        is_of_these = not self._parts or part.num_top == self._parts[0].num_top
        if self.leaves_gap(part) or end <= self._next or end > self._num_prompt or not is_of_these:
            return False
        self._parts.append(part.part(self._next - part.first, part.count))
        self._next = end
        return True

    @property
    def whole(self) -> PromptLogprobs:
        """All of them. Only once they are complete."""
        assert self.is_complete, f"scored are {self._next} of {self._num_prompt} prompt ids"
        if self._whole is None:
            columns = (
                b"".join(getattr(part, name) for part in self._parts)
                for name in ("values", "ranks", "top_ids", "top_values")
            )
            values, ranks, top_ids, top_values = columns
            num_top = self._parts[0].num_top if self._parts else 0
            self._whole = PromptLogprobs(1, values, ranks, num_top, top_ids, top_values)
            self._parts = self._parts[:1]
        return self._whole
