"""Stop strings in a text that arrives in pieces, across the borders of tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Looks for the first of some stop strings; holds back text that could be the beginning of one.

    It is pushed the text of one id at a time, so what was emitted after k ids depends on those ids alone.
    Of several stop strings that one push completes, the one that begins first ends the stream; of those that
    begin together, the shortest.
    """

    __slots__ = ("_by_first", "_held", "_includes")

    def __init__(self, stops: Sequence[str], *, include_stop: bool) -> None:
        self._includes = include_stop
        self._by_first: dict[str, list[str]] = {}  # shortest first
        for stop in sorted({stop for stop in stops if stop}, key=len):
            self._by_first.setdefault(stop[0], []).append(stop)
        self._held = ""

    def push(self, text: str, may_stop: bool = True) -> tuple[str, str | None]:
        """The text that can be emitted now, and the stop string that ended the stream.

        With ``may_stop`` False, stop strings that this piece completes count as text (min_tokens).
        """
        if not text:
            return "", None
        before, text = len(self._held), self._held + text
        cut = size = len(text)
        for at, c in enumerate(text):
            for stop in self._by_first.get(c, ()):
                end = at + len(stop)
                if end > size:
                    if cut == size and stop.startswith(text[at:]):
                        cut = at  # may become this stop string
                elif may_stop and end > before and text.startswith(stop, at):
                    self._held = ""
                    return text[: end if self._includes else at], stop
        self._held = text[cut:]
        return text[:cut], None

    def flush(self) -> str:
        """What was held back, at the end of the stream."""
        held, self._held = self._held, ""
        return held
