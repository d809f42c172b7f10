"""One stream's ids to its text: decoding, stop strings, and where both stand."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.messages.frames import StreamInfo
from services.detokenizer.decoding import Decoding
from services.detokenizer.stopping import StopFinder


class TextState:
    """``num_ids`` ids were taken and ``num_chars`` characters given out. Both are functions of the ids alone."""

    __slots__ = ("_decoder", "_finder", "_min_tokens", "includes_stop", "num_chars", "num_ids", "stop")

    def __init__(self, decoding: Decoding, info: StreamInfo) -> None:
        params = info.params
        self._decoder = decoding.start(info.prompt_tail, params.skip_special_tokens)
        self._finder: StopFinder | None = None
        if any(params.stop):
            self._finder = StopFinder(params.stop, include_stop=params.include_stop_str_in_output)
        self._min_tokens = info.min_tokens
        self.includes_stop = params.include_stop_str_in_output
        self.num_ids = self.num_chars = 0
        self.stop: str | None = None  # the stop string that was found

    def take(self, ids: Sequence[int]) -> str:
        """The new text. Where a stop string is found, ``stop`` is set and the ids after it are not taken."""
        push, finder = self._decoder.push, self._finder
        if finder is None:
            text = push(ids[0]) if len(ids) == 1 else "".join(map(push, ids))
            self.num_ids += len(ids)
        else:
            parts: list[str] = []
            for token_id in ids:
                self.num_ids += 1
                piece, self.stop = finder.push(push(token_id), self.num_ids >= self._min_tokens)
                parts.append(piece)
                if self.stop is not None:
                    break
            text = "".join(parts)
        self.num_chars += len(text)
        return text

    def skip(self, count: int) -> None:
        """Counts ids that have no text: the stop id that ended the stream."""
        self.num_ids += count

    def flush(self) -> str:
        """What was held back, at the end of the stream."""
        text = (self._finder.flush() if self._finder else "") + self._decoder.flush()
        self.num_chars += len(text)
        return text
