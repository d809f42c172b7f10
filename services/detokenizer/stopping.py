"""Stop strings in a text that arrives in pieces, across the borders of tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Looks for the first of some stop strings; holds back text that could be the beginning of one.

    It is pushed the text of one id at a time, so what was emitted after k ids depends on those ids alone.
    Of several stop strings that one push completes, the one that begins first ends the stream; of those that
    begin together, the shortest.
    """

    __slots__ = ("_by_first", "_held", "_includes", "_stops")

    def __init__(self, stops: Sequence[str], *, include_stop: bool) -> None:
        self._stops = sorted({stop for stop in stops if stop}, key=lambda stop: (len(stop), stop))
        self._includes = include_stop
        self._by_first: dict[str, list[str]] = {}
        for stop in self._stops:
            self._by_first.setdefault(stop[0], []).append(stop)
        self._held = ""

    def push(self, text: str, may_stop: bool = True) -> tuple[str, str | None]:
        """The text that can be emitted now, and the stop string that ended the stream.

        With ``may_stop`` False, stop strings that this piece completes count as text (min_tokens).
        """
        if not text:
            return "", None
        before, text = len(self._held), self._held + text
        if may_stop:
            stop, at = self._find(text, before)
            if stop is not None:
                self._held = ""
                return text[: at + len(stop) if self._includes else at], stop
        cut = self._first_beginning(text)
        self._held = text[cut:]
        return text[:cut], None

    def flush(self) -> str:
        """What was held back, at the end of the stream."""
        held, self._held = self._held, ""
        return held

    def _find(self, text: str, before: int) -> tuple[str | None, int]:
        """The earliest stop string that ends after the first ``before`` characters, and where it begins."""
        found, at = None, len(text)
        for stop in self._stops:
            # Only what the new text completes: earlier ones were allowed to pass.
            here = text.find(stop, max(0, before - len(stop) + 1), at + len(stop) - 1)
            if here >= 0:
                found, at = stop, here
        return found, at

    def _first_beginning(self, text: str) -> int:
        """Where the longest end of ``text`` begins that is a proper beginning of a stop string."""
        for i, c in enumerate(text):
            stops = self._by_first.get(c)
            if stops:
                size = len(text) - i
                if any(size < len(stop) and stop.startswith(text[i:]) for stop in stops):
                    return i
        return len(text)
