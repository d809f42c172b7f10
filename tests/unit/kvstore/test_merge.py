import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.messages.codec import encode
from services.common.messages.frames import RUNNING, STOP
from services.common.messages.retention import StreamLogAppend
from services.kvstore.merge import merge_log, parse_log


def append(choice, first, ids, *, finish=RUNNING, request=b"", attempt=1):
    """One row; the text of id n is the letter n, so offsets are indices."""
    text = "".join(chr(97 + i) for i in ids)
    return StreamLogAppend(
        "r", attempt, request, [choice], [first], [len(ids)], ids, [text], [first], [finish]
    )


def test_a_log_is_the_prefix_of_each_choice():
    log = merge_log(
        "r",
        [
            append(0, 0, [0, 1], request=b"request"),
            append(1, 0, [5]),
            append(0, 2, [2], finish=STOP, attempt=2),
        ],
    )
    assert (log.found, log.request, log.attempt) == (True, b"request", 2)
    assert [(c.index, c.ids, c.text, c.finish) for c in log.choices] == [
        (0, [0, 1, 2], "abc", STOP),
        (1, [5], "f", RUNNING),
    ]


def test_why_a_choice_ended_and_what_it_found_in_the_cache_are_kept():
    first, last = append(0, 0, [0, 1], request=b"q"), append(0, 2, [2], finish=STOP)
    first.cached_tokens, last.stop_reasons = {0: 16}, {0: "END"}
    (choice,) = merge_log("r", parse_log(map(encode, [last, first, last]))).choices
    assert (choice.stop_reason, choice.cached_tokens, choice.finish) == ("END", 16, STOP)


def test_what_follows_a_gap_is_left_out():
    log = merge_log("r", [append(0, 0, [0], request=b"q"), append(0, 2, [2])])
    assert log.choices[0].ids == [0]


def test_without_its_beginning_a_log_is_not_found():
    assert not merge_log("r", [append(0, 0, [0])]).found
    assert not merge_log("r", []).found


@settings(deadline=None)
@given(
    cuts=st.lists(st.integers(1, 19), max_size=6, unique=True),
    seed=st.integers(0, 2**32),
    doubled=st.booleans(),
)
def test_rows_may_come_in_any_order_doubled_and_overlapping(cuts, seed, doubled):
    rng, ids, bounds = random.Random(seed), list(range(20)), [0, *sorted(cuts), 20]
    appends = [append(0, 0, [], request=b"q")]
    for start, end in itertools.pairwise(bounds):
        start = max(0, start - rng.randrange(3))
        appends.append(append(0, start, ids[start:end], finish=STOP if end == 20 else RUNNING))
    appends *= 2 if doubled else 1
    rng.shuffle(appends)
    choice = merge_log("r", appends).choices[0]
    assert (choice.ids, choice.text, choice.finish) == (ids, "abcdefghijklmnopqrst", STOP)


@given(st.lists(st.binary(max_size=50)))
def test_any_bytes_are_a_log(entries):
    assert merge_log("r", parse_log(entries)).request_id == "r"


def test_a_gateway_that_was_paused_adds_nothing_to_what_another_took_over():
    stale = [append(0, 0, [0, 1, 2], request=b"q"), append(0, 3, [13, 14], finish=STOP)]
    taken_over = [append(0, 0, [0, 1, 2], attempt=1001), append(0, 3, [3], attempt=1001)]
    for appends in ([*stale, *taken_over], [*taken_over, *stale]):
        (choice,) = merge_log("r", appends).choices
        assert (choice.ids, choice.text, choice.finish) == ([0, 1, 2, 3], "abcd", RUNNING)


def test_what_a_higher_attempt_has_not_logged_is_taken_from_the_one_before():
    log = merge_log("r", [append(0, 0, [0, 1, 2], request=b"q"), append(0, 2, [2, 3], attempt=2)])
    assert (log.choices[0].ids, log.choices[0].text) == ([0, 1, 2, 3], "abcd")
    gap = merge_log("r", [append(0, 0, [0, 1, 2], request=b"q"), append(0, 5, [5], attempt=2)])
    assert gap.choices[0].ids == [0, 1, 2]


def test_rows_that_do_not_add_up_are_left_out():
    wrong = append(0, 0, [1])
    wrong.counts = [5]
    assert merge_log("r", [append(0, 0, [], request=b"q"), wrong]).choices[0].ids == []
