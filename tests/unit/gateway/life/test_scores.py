"""The scores of a prompt come before its ids: parts in order, each once, and nothing is given out without them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from services.common.messages.codec import pack
from services.common.messages.frames import ERROR, LENGTH, RUNNING, PromptLogprobs
from services.gateway.life.handle import RequestLife
from services.gateway.life.scores import PromptScores
from services.gateway.life.spec import SendReplay
from services.gateway.life.stream import Row
from tests.unit.gateway.life.test_request import Stage

PROMPT = list(range(40))


def part(first: int, end: int, num_top: int = 2) -> PromptLogprobs:
    """The values of ids first .. end - 1 are their places."""
    places = list(range(first, end))
    tops = [i + k for i in places for k in range(num_top)]
    return PromptLogprobs(
        first,
        pack(places, "float32"),
        pack(places, "int32"),
        num_top,
        pack(tops, "int32"),
        pack(tops, "float32"),
    )


@given(st.lists(st.tuples(st.integers(1, 39), st.integers(1, 12)), max_size=60), st.randoms())
def test_parts_in_any_order_doubled_and_overlapping_make_the_whole(
    pieces: list[tuple[int, int]], rng: random.Random
) -> None:
    scores = PromptScores(len(PROMPT))
    whole = [(first, 8) for first in range(1, 40, 8)]
    arriving = [*pieces, *rng.sample(whole, len(whole)), *pieces, *whole]
    for first, count in arriving:
        new = part(first, min(first + count, 40))
        has_gap, took = scores.leaves_gap(new), scores.accept(new)
        assert not (has_gap and took)
    assert scores.is_complete
    assert scores.whole == part(1, 40)


def test_what_cannot_belong_to_the_prompt_is_not_taken() -> None:
    scores = PromptScores(len(PROMPT))
    assert not scores.accept(part(1, 41))
    assert scores.accept(part(1, 10))
    assert not scores.accept(part(10, 20, num_top=3))
    assert scores.accept(part(10, 40))
    assert PromptScores(1).is_complete
    assert PromptScores(1).whole.count == 0


class Scored(Stage):
    def __init__(self, **spec: object) -> None:
        super().__init__(prompt_ids=PROMPT, prompt_logprobs=2, **spec)
        self.life = RequestLife([self.request], 0.0, lambda life: None)

    def scores(self, first: int, end: int, attempt: int = 0) -> bool:
        row = Row(attempt or self.request.attempt, 0, [], "", 0, prompt_logprobs=part(first, end))
        return self.request.on_row(0, row, "w1", self.now)

    def taken(self) -> Iterator[tuple[int, list[int]]]:
        return ((delta.choice, delta.ids) for delta in self.life._take())


def test_nothing_is_given_out_before_the_scores_are_complete() -> None:
    stage = Scored(num_choices=2).start()
    assert stage.scores(1, 20)
    assert stage.row(0, [5], choice=1)
    assert not stage.row(0, [3])
    assert list(stage.taken()) == []
    assert stage.scores(20, 40)
    assert stage.row(0, [3])
    assert sorted(stage.taken()) == [(0, [3]), (1, [5])]


def test_ids_that_overtook_their_prompt_s_scores_lead_to_a_replay() -> None:
    stage = Scored().start()
    stage.scores(1, 20)
    assert not stage.row(0, [3], LENGTH)
    assert [type(action) for action in stage.pass_time(0.4, held_by="w1")] == [SendReplay]
    stage.scores(1, 20)
    stage.scores(20, 40)
    assert stage.row(0, [3], LENGTH)
    assert stage.request.is_done


def test_a_resubmission_asks_for_scores_only_while_some_are_missing() -> None:
    stage = Scored().start()
    assert stage.request.build_message(stage.now).prompt_logprobs == 2
    stage.scores(1, 20)
    stage.request.on_bounced(1, stage.now, stage.fleet)
    assert stage.request.build_message(stage.now).prompt_logprobs == 2
    assert not stage.scores(20, 40, attempt=1)
    assert stage.scores(1, 40)
    stage.request.on_bounced(2, stage.now, stage.fleet)
    assert stage.request.build_message(stage.now).prompt_logprobs == -1


def test_a_failure_needs_no_scores() -> None:
    stage = Scored().start()
    stage.row(0, [], ERROR)
    assert stage.request.error is not None


def test_without_scores_asked_for_those_that_come_are_left() -> None:
    stage = Stage(prompt_ids=PROMPT).start()
    row = Row(1, 0, [], "", 0, RUNNING, prompt_logprobs=part(1, 40))
    assert not stage.request.on_row(0, row, "w1", stage.now)
    assert stage.row(0, [3])
