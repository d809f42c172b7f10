"""Stop strings are found at the earliest place, and nothing of them leaks out before."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.detokenizer.stopping import StopFinder

small = st.text("abc", min_size=0, max_size=6)


def run(
    pieces: list[str], stops: list[str], *, include: bool = False, free: int = 0
) -> tuple[str, str | None]:
    """Pushes pieces until one stops; the first ``free`` may not stop."""
    finder = StopFinder(stops, include_stop=include)
    out = ""
    for i, piece in enumerate(pieces):
        text, stop = finder.push(piece, i >= free)
        out += text
        if stop is not None:
            return out, stop
    return out + finder.flush(), None


def expected(pieces: list[str], stops: list[str], include: bool, free: int) -> tuple[str, str | None]:
    """The definition, slowly: the first piece that completes a stop string ends the text."""
    text = ""
    for i, piece in enumerate(pieces):
        before, text = len(text), text + piece
        ends = [
            (at, len(stop), stop)
            for stop in stops
            for at in range(len(text))
            if stop and text.startswith(stop, at) and at + len(stop) > before
        ]
        if ends and i >= free:
            at, size, stop = min(ends)
            return text[: at + size if include else at], stop
    return text, None


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.lists(small, max_size=12), st.lists(small, max_size=4), st.booleans(), st.integers(0, 6))
def test_the_text_is_cut_where_the_definition_says(
    pieces: list[str], stops: list[str], include: bool, free: int
) -> None:
    assert run(pieces, stops, include=include, free=free) == expected(pieces, stops, include, free)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(small, max_size=12), st.lists(small, min_size=1, max_size=4))
def test_what_was_emitted_is_never_the_beginning_of_a_stop_string(
    pieces: list[str], stops: list[str]
) -> None:
    """Whatever comes next, the text so far needs no taking back; and nothing is held without need."""
    finder = StopFinder(stops, include_stop=False)
    emitted = whole = ""
    for piece in pieces:
        text, stop = finder.push(piece)
        emitted, whole = emitted + text, whole + piece
        if stop is not None:
            break
        assert whole.startswith(emitted)
        held = whole[len(emitted) :]
        beginnings = {s[:n] for s in stops for n in range(1, len(s))}
        assert held == "" or held in beginnings
        assert not any(emitted[i:] + held in beginnings for i in range(len(emitted)))


@pytest.mark.parametrize(
    ("pieces", "stops", "out", "stop"),
    [
        (["Hello wor", "ld. Next"], ["world"], "Hello ", "world"),
        (["a", "b", "c", "d"], ["bcd"], "a", "bcd"),
        (["abcd"], ["cd", "bc"], "a", "bc"),
        (["ab"], ["abc"], "ab", None),
        (["xab"], ["abc", "ab"], "x", "ab"),
        (["aaab"], ["aab"], "a", "aab"),
        (["x"], [], "x", None),
    ],
)
def test_examples(pieces: list[str], stops: list[str], out: str, stop: str | None) -> None:
    assert run(pieces, stops) == (out, stop)


def test_the_stop_string_itself_is_kept_on_request() -> None:
    assert run(["one\n", "\ntwo"], ["\n\n"], include=True) == ("one\n\n", "\n\n")


def test_a_stop_string_completed_before_min_tokens_is_text() -> None:
    assert run(["a.", "b.", "c.", "d"], ["."], free=2) == ("a.b.c", ".")
