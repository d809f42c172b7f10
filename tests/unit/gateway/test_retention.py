from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidValue
from services.common.messages.frames import RUNNING, STOP
from services.gateway.life.stream import Delta
from services.gateway.openai.render import Positions
from services.gateway.retention import Position, ResumedRenderer, parse_positions

OUTPUT = [(10 + i, piece) for i, piece in enumerate(["Gr", "", "üß", "e ", "", "aus ", "日", "本", "!"])]


def part(first: int, end: int) -> Delta:
    """The delta of OUTPUT[first:end]."""
    delta = Delta(0, [token for token, _ in OUTPUT[first:end]], [text for _, text in OUTPUT[first:end]])
    delta.num_ids = end
    delta.num_chars = len("".join(text for _, text in OUTPUT[:end]))
    delta.finish = STOP if end == len(OUTPUT) else RUNNING
    return delta


class Recorder:
    """A renderer that notes what it is given."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.text = ""

    def opening(self) -> bytes:
        return b"opening;"

    def events(self, deltas: list[Delta]) -> bytes:
        self.ids += [token for delta in deltas for token in delta.ids]
        self.text += "".join(delta.text for delta in deltas)
        return "".join(f"{d.ids}{d.text}{'.' if d.finish else ''}" for d in deltas).encode()

    def closing(self) -> bytes:
        return b"closing"

    def body(self, deltas: list[Delta]) -> dict[str, Any]:
        return {}


bounds = st.sets(st.integers(1, len(OUTPUT) - 1)).map(lambda cuts: [0, *sorted(cuts), len(OUTPUT)])


@given(st.integers(0, len(OUTPUT)), bounds, bounds)
def test_a_client_that_comes_back_gets_what_it_misses_and_the_dialect_sees_all(
    seen: int, before: list[int], after: list[int]
) -> None:
    plain = Recorder()
    sent = b"".join(plain.events([part(a, b)]) for a, b in itertools.pairwise(before) if b <= seen)
    seen = max(b for b in before if b <= seen)
    position = Position(seen, part(0, seen).num_chars, seen == len(OUTPUT))
    inner = Recorder()
    resumed = ResumedRenderer(inner, [position])
    assert resumed.opening() == (b"" if seen else b"opening;")
    rest = b"".join(resumed.events([part(a, b)]) for a, b in itertools.pairwise(after))
    assert inner.ids == [token for token, _ in OUTPUT]
    assert inner.text == "".join(text for _, text in OUTPUT)
    digits = [
        int(word)
        for word in (sent + rest).decode().replace("[", " ").replace("]", " ").replace(",", " ").split()
        if word.isdigit()
    ]
    assert digits == [token for token, _ in OUTPUT]
    assert (sent + rest).count(b".") == 1, "the end is given once"


def test_positions_are_read_as_they_are_written() -> None:
    positions = Positions(3)
    positions.move(part(0, 4))
    last = part(4, len(OUTPUT))
    last.choice = 2
    positions.move(last)
    text = positions.line().decode().removeprefix("id: ").strip()
    assert parse_positions(text, 3) == [
        Position(4, part(0, 4).num_chars),
        Position(),
        Position(last.num_ids, last.num_chars, True),
    ]
    assert parse_positions("", 2) == [Position(), Position()]


@pytest.mark.parametrize("text", ["x", "0:1", "0:1.-2", "3:1.1", "0:1.1,,1:9x", "0:" + "9" * 40 + ".1"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_positions(text, 3)
