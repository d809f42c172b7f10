"""Rows in any order, doubled, lost and replayed: the text that a gateway puts together is the same."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.errors import DecodeError
from services.common.messages.control import Cancel, Holdings
from services.common.messages.frames import (
    ERROR,
    LENGTH,
    RUNNING,
    STOP,
    PromptLogprobs,
    RowLogprobs,
    StreamInfo,
    TextFrame,
    TokenFrame,
)
from services.common.messages.request import StreamParams
from services.common.model_files import FastTokenizer
from services.detokenizer.config import StreamLimits
from services.detokenizer.decoding import Decoding, decoding_of
from services.detokenizer.streams import Actions, StreamTable

GATEWAY, WORKER = "g1", "w1"


@pytest.fixture(scope="session")
def decoding(byte_level: FastTokenizer) -> Decoding:
    return decoding_of(byte_level)


@pytest.fixture
def table(decoding: Decoding) -> StreamTable:
    return StreamTable(decoding, "d1", StreamLimits())


def info(*, prior: list[int] | None = None, gateway: str = GATEWAY, **params: object) -> StreamInfo:
    min_tokens = params.pop("min_tokens", 0)
    assert isinstance(min_tokens, int)
    return StreamInfo(gateway, StreamParams(**params), prior or [], [], min_tokens)  # type: ignore[arg-type]


def frame(
    ids: list[int],
    *,
    first: int = 0,
    attempt: int = 1,
    stream: str = "r:0",
    finish: int = RUNNING,
    stop_id: int | None = None,
    about: StreamInfo | None = None,
    worker: str = WORKER,
    logprobs: RowLogprobs | None = None,
) -> TokenFrame:
    """A frame of one row."""
    return TokenFrame(
        worker, [stream], [attempt], [first], [len(ids)], ids, [finish], [7],
        stop_ids={} if stop_id is None else {0: stop_id},
        infos={} if about is None else {0: about},
        logprobs={} if logprobs is None else {0: logprobs},
    )  # fmt: skip


class Reader:
    """What a gateway keeps of one stream: it trusts indices and offsets alone."""

    def __init__(self) -> None:
        self.attempt, self.ids, self.text = 0, list[int](), ""
        self.finish, self.reason = RUNNING, None

    def read(self, text: TextFrame) -> None:
        start = 0
        for i in range(len(text.streams)):
            ids = text.ids[start : start + text.counts[i]]
            start += text.counts[i]
            first, offset = text.first[i], text.text_offset[i]
            if text.attempts[i] < self.attempt or first > len(self.ids) or self.finish != RUNNING:
                continue
            assert offset <= len(self.text)
            new_ids, new_text = ids[len(self.ids) - first :], text.texts[i][len(self.text) - offset :]
            assert self.ids[first : first + len(ids)] == ids[: len(self.ids) - first]
            self.ids += new_ids
            self.text += new_text
            self.finish, self.reason = text.finish[i], text.stop_reasons.get(i)


def only(actions: Actions) -> TextFrame:
    (text,) = actions.frames.values()
    return text


def test_first_rows_and_following_rows_become_text(table: StreamTable, byte_level: FastTokenizer) -> None:
    ids = byte_level.encode("the quick fox")
    reader = Reader()
    reader.read(only(table.apply(frame(ids[:2], about=info()), 0.0)))
    reader.read(only(table.apply(frame(ids[2:], first=2, finish=LENGTH), 0.1)))
    assert (reader.ids, reader.text, reader.finish) == (ids, "the quick fox", LENGTH)
    assert table.num_live() == 0


def test_a_frame_makes_one_text_frame_per_gateway(table: StreamTable) -> None:
    both = TokenFrame(
        WORKER, ["a:0", "b:0", "c:0"], [1] * 3, [0] * 3, [1] * 3, [70, 71, 72], [RUNNING] * 3, [0] * 3,
        infos={0: info(), 1: info(gateway="g2"), 2: info()},
    )  # fmt: skip
    frames = table.apply(both, 0.0).frames
    assert {name: text.streams for name, text in frames.items()} == {"g1": ["a:0", "c:0"], "g2": ["b:0"]}
    assert frames["g1"].ids == [70, 72]


def test_a_gap_is_asked_for_again_and_at_most_every_200_ms(table: StreamTable) -> None:
    table.apply(frame([70], about=info()), 0.0)
    asked = [table.apply(frame([73], first=3 + i), 0.05 * i).replays for i in range(6)]
    assert [len(replays) for replays in asked] == [1, 0, 0, 0, 1, 0]
    assert asked[0] == [("r:0", 1)]


def test_an_unknown_stream_without_info_is_asked_for(table: StreamTable) -> None:
    actions = table.apply(frame([70], first=9), 0.0)
    assert (actions.replays, actions.frames) == ([("r:0", 1)], {})


def test_what_is_known_is_dropped_and_the_new_part_of_an_overlap_used(table: StreamTable) -> None:
    table.apply(frame([70, 71], about=info()), 0.0)
    assert table.apply(frame([71], first=1), 0.1).frames == {}
    text = only(table.apply(frame([70, 71, 72], first=0), 0.2))
    assert (text.first, text.ids) == ([2], [72])


def test_a_lower_attempt_is_dropped_and_its_worker_told(table: StreamTable) -> None:
    table.apply(frame([70], about=info()), 0.0)
    table.apply(frame([71], first=1, attempt=2, about=info(prior=[70]), worker="w2"), 0.1)
    actions = table.apply(frame([71], first=1, attempt=1), 0.2)
    assert (actions.cancels, actions.frames, actions.num_stale) == ([("r:0", 1)], {}, 1)


def test_a_higher_attempt_goes_on_from_its_prior_ids(table: StreamTable, byte_level: FastTokenizer) -> None:
    """Half an emoji was emitted by the first attempt; the second completes it at the same offset."""
    ids = byte_level.encode("ab\U0001f9ff!")
    reader = Reader()
    reader.read(only(table.apply(frame(ids[:4], about=info()), 0.0)))
    second = frame(ids[4:], first=4, attempt=2, about=info(prior=ids[:4]), worker="w2", finish=LENGTH)
    reader.read(only(table.apply(second, 0.1)))
    assert reader.text == "ab\U0001f9ff!"


def test_a_replay_gives_out_again_what_was_given_out_before(table: StreamTable) -> None:
    """The gateway may have lost the text frame, not the worker's."""
    table.apply(frame([70, 71], about=info()), 0.0)
    table.apply(frame([72], first=2, finish=LENGTH), 0.1)
    text = only(table.apply(frame([70, 71, 72], about=info(), finish=LENGTH), 0.2))
    assert (text.first, text.ids, text.text_offset, text.finish) == ([0], [70, 71, 72], [0], [LENGTH])


def test_a_late_first_row_does_not_set_the_stream_back(table: StreamTable) -> None:
    first = frame([70], about=info())
    table.apply(first, 0.0)
    table.apply(frame([71, 72], first=1), 0.1)
    table.apply(first, 0.2)
    assert only(table.apply(frame([73], first=3), 0.3)).ids == [73]


def test_a_stop_string_ends_the_stream_and_its_worker_is_told_until_it_stops(
    table: StreamTable, byte_level: FastTokenizer
) -> None:
    ids = byte_level.encode("one.two")
    dot = next(i for i in range(len(ids)) if "." in byte_level.decode(ids[: i + 1]))
    actions = table.apply(frame(ids, about=info(stop=["."])), 0.0)
    text = only(actions)
    assert (text.texts, text.finish, text.stop_reasons) == (["one"], [STOP], {0: "."})
    assert text.ids == ids[: dot + 1]
    assert actions.cancels == [("r:0", 1)]
    assert table.apply(frame([70], first=len(ids)), 0.1).cancels == []
    late = table.apply(frame([70], first=len(ids) + 1), 0.3)
    assert (late.cancels, late.frames) == ([("r:0", 1)], {})


def test_min_tokens_count_ids_of_earlier_attempts(table: StreamTable, byte_level: FastTokenizer) -> None:
    dot = byte_level.encode(".")
    text = only(
        table.apply(frame(dot * 3, first=2, about=info(prior=dot * 2, stop=["."], min_tokens=4)), 0.0)
    )
    assert (text.texts, text.counts, text.text_offset) == (["."], [2], [2])


@pytest.mark.parametrize(("include", "expected"), [(False, "ab"), (True, "abc")])
def test_the_id_that_ends_a_stream_is_text_only_on_request(
    table: StreamTable, byte_level: FastTokenizer, include: bool, expected: str
) -> None:
    a, b, c = (byte_level.encode(x)[0] for x in "abc")
    about = info(include_stop_str_in_output=include)
    text = only(table.apply(frame([a, b, c], about=about, finish=STOP, stop_id=c), 0.0))
    assert (text.texts, text.counts, text.stop_reasons) == ([expected], [3], {0: c})


def test_what_is_held_back_is_flushed_at_the_end(table: StreamTable, byte_level: FastTokenizer) -> None:
    ids = byte_level.encode("wait \U0001f9ff")[:-1]
    text = only(table.apply(frame(ids, about=info(stop=["wait \ufffdx"]), finish=LENGTH), 0.0))
    assert text.texts == ["wait \ufffd"]


def test_errors_and_log_probabilities_go_through(table: StreamTable) -> None:
    logprobs = RowLogprobs([-1.0, -2.0], 1, [5, 6], [-0.5, -0.25])
    table.apply(frame([70], about=info()), 0.0)
    overlap = frame([70, 71], logprobs=logprobs)
    assert only(table.apply(overlap, 0.1)).logprobs == {0: RowLogprobs([-2.0], 1, [6], [-0.25])}
    failed = frame([], first=2, finish=ERROR)
    failed.errors[0] = "engine_failure: NaN"
    assert only(table.apply(failed, 0.2)).errors == {0: "engine_failure: NaN"}


def test_long_replays_leave_in_several_rows(decoding: Decoding) -> None:
    table = StreamTable(decoding, "d1", StreamLimits(max_row_ids=10))
    text = only(table.apply(frame([70] * 25, about=info(), finish=LENGTH), 0.0))
    assert (text.first, text.counts, text.finish) == ([0, 10, 20], [10, 10, 5], [RUNNING, RUNNING, LENGTH])
    assert text.text_offset == [0, 10, 20]


def test_a_cancelled_stream_has_ended_for_its_attempt_and_later_ones_live(table: StreamTable) -> None:
    table.apply(frame([70, 71], about=info()), 0.0)
    table.cancel(Cancel(streams=["r:0", "unknown:0"], stream_attempts=[1, 1]), 0.1)
    assert table.num_live() == 0
    late = table.apply(frame([72], first=2), 0.2)
    assert (late.frames, late.replays, late.cancels) == ({}, [], [])
    table.apply(frame([72], first=2, attempt=2, about=info(prior=[70, 71])), 0.3)
    table.cancel(Cancel(streams=["r:0"], stream_attempts=[1]), 0.4)
    assert only(table.apply(frame([73], first=3, attempt=2), 0.5)).ids == [73]


def test_only_unfinished_streams_without_rows_are_silent(table: StreamTable) -> None:
    table.apply(frame([70], about=info(), stream="ended:0", finish=LENGTH), 0.0)
    table.apply(frame([70, 71], about=info(), stream="still:0"), 0.0)
    table.apply(frame([70], about=info(), stream="speaks:0"), 0.0)
    table.apply(frame([70], attempt=2, about=info(gateway="other"), stream="still:1"), 0.0)
    table.apply(frame([71], first=1, stream="speaks:0"), 0.3)
    assert table.silent(0.3, 0.4) == {}
    assert table.silent(0.4, 0.4) == {
        GATEWAY: Holdings("detokenizer", "d1", [], [], ["still:0"], [1], [2], [0]),
        "other": Holdings("detokenizer", "d1", [], [], ["still:1"], [2], [1], [0]),
    }


def test_streams_are_forgotten(decoding: Decoding) -> None:
    table = StreamTable(decoding, "d1", StreamLimits(keep_ended_s=10, keep_silent_s=600, max_streams=3))
    table.apply(frame([70], about=info(), stream="ended:0", finish=LENGTH), 0.0)
    table.apply(frame([70], about=info(), stream="live:0"), 0.0)
    table.apply(frame([70], about=info(gateway="dead"), stream="orphan:0"), 0.0)
    table.forget(5.0, ["dead"])
    assert (table.gateways(), table.num_live()) == ({GATEWAY}, 1)
    table.forget(11.0)
    assert table.apply(frame([71], first=1, stream="ended:0"), 11.0).replays == [("ended:0", 1)]
    assert table.num_live() == 1
    table.forget(700.0)
    assert table.num_live() == 0
    for i in range(5):
        table.apply(frame([70], about=info(), stream=f"many:{i}"), 700.0)
    assert table.num_live() == 3


@pytest.mark.parametrize(
    "broken",
    [
        TokenFrame(WORKER, ["a:0"], [1], [0], [2], [5], [0], [0]),
        TokenFrame(WORKER, ["a:0"], [], [0], [1], [5], [0], [0]),
        TokenFrame(WORKER, ["a:0", "b:0"], [1, 1], [0, 0], [2, -1], [5], [0, 0], [0, 0]),
        TokenFrame(WORKER, ["a:0"], [1], [-3], [1], [5], [0], [0]),
        frame([5], logprobs=RowLogprobs([], 0)),
    ],
)
def test_frames_whose_columns_do_not_fit_are_refused_whole(table: StreamTable, broken: TokenFrame) -> None:
    with pytest.raises(DecodeError):
        table.apply(broken, 0.0)
    assert table.num_live() == 0


def whole_text(
    decoding: Decoding, ids: list[int], about: StreamInfo, finish: int, stop_id: int | None
) -> Reader:
    reader = Reader()
    reader.read(only(StreamTable(decoding, "d", StreamLimits()).apply(
        frame(ids, about=about, finish=finish, stop_id=stop_id), 0.0
    )))  # fmt: skip
    return reader


@settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 2**32), st.text("ab.é😀 the", max_size=30), st.booleans())
def test_any_grouping_loss_doubling_and_resuming_gives_the_same_ids_and_text(
    decoding: Decoding, byte_level: FastTokenizer, seed: int, text: str, with_stop: bool
) -> None:
    """A worker, a lossy way and two detokenizers that share the work; the reader ends at the same place."""
    rng = random.Random(seed)
    ids = [*byte_level.encode(text), *(rng.randrange(300) for _ in range(rng.randrange(5))), 300]
    stop = [". ", "é😀", "the"] if with_stop else []
    finish, stop_id = (STOP, ids[-1]) if rng.random() < 0.5 else (LENGTH, None)
    wanted = whole_text(decoding, ids, info(stop=stop), finish, stop_id)

    reader, attempt, base = Reader(), 1, 0
    tables = [StreamTable(decoding, f"d{i}", StreamLimits()) for i in range(2)]
    for round_ in range(200):
        if reader.finish != RUNNING:
            break
        if rng.random() < 0.1:
            attempt, base = attempt + 1, len(reader.ids)
            reader.attempt = attempt
        is_replay = rng.random() < 0.4 or round_ > 150
        first = base if is_replay else rng.randrange(base, len(ids) + 1)
        end = len(ids) if round_ > 150 else rng.randint(first, len(ids))
        at_end = end == len(ids)
        sent = frame(
            ids[first:end], first=first, attempt=attempt, finish=finish if at_end else RUNNING,
            stop_id=stop_id if at_end else None, about=info(prior=ids[:base], stop=stop) if is_replay else None,
        )  # fmt: skip
        for answer in tables[rng.randrange(2)].apply(sent, float(round_)).frames.values():
            if rng.random() < 0.7:
                reader.read(answer)
    assert (reader.ids, reader.text, reader.finish, reader.reason) == (
        wanted.ids, wanted.text, wanted.finish, wanted.reason,
    )  # fmt: skip


def test_prompt_scores_pass_through_whatever_is_known_of_their_stream(table: StreamTable) -> None:
    def scored(attempt: int = 1) -> TokenFrame:
        made = frame([], attempt=attempt, about=info())
        made.prompt_logprobs[0] = PromptLogprobs(1, b"\0" * 8, b"\0" * 8)
        return made

    def passes(attempt: int = 1) -> bool:
        text = only(table.apply(scored(attempt), 0.0))
        return text.prompt_logprobs == scored().prompt_logprobs and (text.ids, text.texts) == ([], [""])

    assert passes()
    table.apply(frame([70, 71], about=info()), 0.0)
    assert passes()
    assert only(table.apply(frame([72], first=2, finish=LENGTH), 0.0)).first == [2]
    assert passes()
    assert passes(attempt=2)
    assert table.apply(scored(attempt=1), 0.0).frames == {}
    resumed = frame([73], first=3, attempt=2, about=info(prior=[70, 71, 72]))
    assert only(table.apply(resumed, 0.0)).first == [3]
