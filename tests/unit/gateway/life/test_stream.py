from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.common.messages.frames import LENGTH, RUNNING, STOP, RowLogprobs
from services.gateway.life.stream import Row, StreamState

# (id, its text): several ids have no text of their own, as within a character of several bytes.
OUTPUT = [(10 + i, piece) for i, piece in enumerate(["Gr", "", "üß", "e ", "", "", "aus ", "日", "本", "!"])]
TEXT = "".join(text for _, text in OUTPUT)


def row(first: int, end: int, attempt: int = 1, finish: int | None = None) -> Row:
    part = OUTPUT[first:end]
    if finish is None:
        finish = STOP if end == len(OUTPUT) else RUNNING
    return Row(
        attempt,
        first,
        [token for token, _ in part],
        "".join(text for _, text in part),
        len("".join(text for _, text in OUTPUT[:first])),
        finish,
        cached_tokens=4,
        logprobs=RowLogprobs(
            [-float(token) for token, _ in part], 1, [t + 1 for t, _ in part], [-0.5] * len(part)
        ),
    )


spans = st.tuples(st.integers(0, len(OUTPUT) - 1), st.integers(1, 5)).map(
    lambda span: row(span[0], min(span[0] + span[1], len(OUTPUT)))
)


@given(st.lists(spans, max_size=40), st.sets(st.integers(0, 39)))
def test_any_rows_and_a_replay_give_each_token_and_character_once(
    rows: list[Row], taken_after: set[int]
) -> None:
    stream = StreamState(0, seed=1)
    deltas = []
    for i, part in enumerate(rows):
        stream.accept(part, now=float(i))
        if i in taken_after and (delta := stream.take()):
            deltas.append(delta)
    stream.accept(row(0, len(OUTPUT)), now=100.0)
    if delta := stream.take():
        deltas.append(delta)
    assert [token for delta in deltas for token in delta.ids] == [token for token, _ in OUTPUT]
    assert "".join(delta.text for delta in deltas) == TEXT
    logprobs = [value for delta in deltas if delta.logprobs for value in delta.logprobs.values]
    assert logprobs == [-float(token) for token, _ in OUTPUT]
    tops = [token for delta in deltas if delta.logprobs for token in delta.logprobs.top_ids]
    assert tops == [token + 1 for token, _ in OUTPUT]
    assert (deltas[-1].finish, deltas[-1].num_ids, deltas[-1].num_chars) == (STOP, len(OUTPUT), len(TEXT))


def test_a_gap_is_seen_and_closed_by_what_was_missing() -> None:
    stream = StreamState(0, seed=1)
    assert stream.accept(row(0, 2), 1.0)
    assert not stream.accept(row(3, 5), 2.0)
    assert stream.has_gap
    assert stream.is_behind
    assert stream.accept(row(2, 5), 3.0)
    assert not stream.is_behind


def test_a_row_that_only_ends_the_stream_ends_it_once() -> None:
    stream = StreamState(0, seed=1)
    stream.accept(row(0, 3), 1.0)
    assert stream.accept(row(3, 3, finish=LENGTH), 2.0)
    assert not stream.accept(row(3, 3, finish=LENGTH), 3.0)
    assert not stream.accept(row(3, 6), 4.0)
    delta = stream.take()
    assert delta is not None
    assert (len(delta.ids), delta.finish) == (3, LENGTH)


def test_an_end_beyond_a_gap_waits_for_what_is_missing() -> None:
    stream = StreamState(0, seed=1)
    stream.accept(row(0, 3), 1.0)
    assert not stream.accept(row(8, 10), 2.0)
    assert not stream.is_finished


def test_text_that_was_held_back_arrives_without_a_new_id() -> None:
    stream = StreamState(0, seed=1)
    stream.accept(Row(1, 0, [7], "", 0), 1.0)
    assert stream.accept(Row(1, 1, [], "abc", 0, LENGTH), 2.0)
    delta = stream.take()
    assert delta is not None
    assert (delta.ids, delta.text) == ([7], "abc")


def test_text_beyond_what_was_received_is_a_gap_even_when_ids_continue() -> None:
    stream = StreamState(0, seed=1)
    stream.accept(Row(1, 0, [7], "ab", 0), 1.0)
    assert not stream.accept(Row(1, 1, [8], "ef", 4), 2.0)
    assert stream.has_gap


def test_cached_tokens_are_those_of_the_first_attempt() -> None:
    stream = StreamState(0, seed=1)
    stream.accept(row(0, 3), 1.0)
    stream.take()
    resumed = row(3, 6, attempt=2)
    resumed.cached_tokens = 400
    stream.accept(resumed, 2.0)
    delta = stream.take()
    assert delta is not None
    assert delta.cached_tokens == 4
