from __future__ import annotations

import random

import pytest

from services.common.bus import NoResponders, PayloadTooLarge, RequestTimeout
from services.common.errors import EngineFailure
from services.common.lifecycle import Timing
from services.common.messages.events import READY, STOPPED, Heartbeat
from services.common.messages.frames import ERROR, RUNNING, STOP
from services.common.messages.request import SamplingParams, SubmitReply
from services.gateway.life.crashes import MAX_CRASHES, MAX_CRASHES_IN_ALL, PROGRESS_IDS
from services.gateway.life.fleet import Fleet
from services.gateway.life.request import RequestState
from services.gateway.life.spec import Action, Patience, Phase, SendCancel, SendReplay, Spec, Submit
from services.gateway.life.stream import Row

TIMING = Timing(heartbeat_s=0.3, lease_s=1.2)


class Stage:
    """A request, the fleet that it sees, and a clock that the test turns."""

    def __init__(self, **spec: object) -> None:
        self.now = 100.0
        self.live = {"router": ["r1"], "worker": ["w1", "w2"], "detokenizer": ["d1", "d2"]}
        self.fleet = Fleet("m", TIMING, random.Random(1))
        self.beat()
        fields = {"request_id": "q", "prompt_ids": [1, 2], "sampling": SamplingParams(max_tokens=9)} | spec
        self.request = RequestState(
            Spec(**fields),
            "m",
            "g1",
            random.Random(1),
            self.now,
            Patience(),  # type: ignore[arg-type]
        )

    def beat(self) -> None:
        self.fleet.on_own_beat(self.now)
        for service, names in self.live.items():
            for name in names:
                self.fleet.on_heartbeat(Heartbeat(service, name, 1, READY, 0.3, "m"), self.now)

    def submit(self) -> list[Action]:
        return self.request.submit(self.now, self.fleet)

    def accept(self) -> None:
        self.request.on_reply(self.request.attempt, SubmitReply(True, "r1"), self.now, self.fleet)

    def start(self) -> Stage:
        self.submit()
        self.accept()
        return self

    def row(
        self, first: int, ids: list[int], finish: int = RUNNING, attempt: int | None = None, choice: int = 0
    ) -> bool:
        attempt = self.request.attempt if attempt is None else attempt
        text = "".join(chr(96 + i) for i in ids)
        return self.request.on_row(choice, Row(attempt, first, ids, text, first, finish), "w1", self.now)

    def pass_time(self, seconds: float, *, bus: bool = True, held_by: str = "") -> list[Action]:
        """Ticks as the gateway does, with everybody's heartbeats unless the bus is away."""
        actions: list[Action] = []
        end = self.now + seconds
        while self.now < end:
            self.now += 0.05
            if bus:
                self.beat()
            if held_by:
                self.request.on_holding("worker", held_by, self.request.attempt, self.now)
            actions += self.request.tick(self.now, self.fleet)
        return actions


def test_the_first_submission_carries_everything_that_a_worker_needs() -> None:
    stage = Stage(num_choices=2, seed=2**63 - 1, timeout_s=5.0)
    assert stage.submit() == [Submit(1)]
    message = stage.request.build_message(stage.now + 1)
    assert message.attempt == 1
    assert message.detokenizer_id in ("d1", "d2")
    assert [choice.seed for choice in message.choices] == [2**63 - 1, 0]
    assert message.timeout_s == pytest.approx(4.0)


def test_a_bounce_leads_to_a_higher_attempt_with_what_arrived_and_without_what_is_finished() -> None:
    stage = Stage(num_choices=2).start()
    stage.row(0, [3, 4])
    stage.row(0, [5], STOP, choice=1)
    assert stage.request.on_bounced(1, stage.now, stage.fleet) == [Submit(2)]
    message = stage.request.build_message(stage.now)
    assert [(choice.index, choice.output_ids) for choice in message.choices] == [(0, [3, 4])]


def test_a_bounce_with_an_error_ends_the_request_with_it() -> None:
    stage = Stage().start()
    error = EngineFailure("as told")
    actions = stage.request.on_bounced(1, stage.now, stage.fleet, error)
    assert Submit(2) not in actions
    assert stage.request.error is error
    assert stage.request.is_done


def crash(stage: Stage) -> list[Action]:
    actions = stage.request.on_crashed(stage.request.attempt, stage.now, stage.fleet, "the engine died: why")
    while not actions and not stage.request.is_done:
        actions = stage.pass_time(0.05)
    stage.accept()
    return actions


def test_a_request_that_takes_engine_after_engine_with_it_ends_with_the_reason() -> None:
    stage = Stage().start()
    for count in range(1, MAX_CRASHES):
        assert Submit(count + 1) in crash(stage)
        assert stage.request.build_message(stage.now).num_crashes == count
    crash(stage)
    assert isinstance(stage.request.error, EngineFailure)
    assert (
        stage.request.error.message
        == f"{MAX_CRASHES} engines ended while they ran this request: the engine died: why"
    )


def test_a_request_that_got_on_between_crashes_is_not_suspected_soon_but_not_for_ever() -> None:
    stage = Stage(sampling=SamplingParams(max_tokens=9000)).start()
    for i in range(MAX_CRASHES_IN_ALL - 1):
        crash(stage)
        assert not stage.request.is_done
        stage.row(i * PROGRESS_IDS, [1] * PROGRESS_IDS)
        assert stage.request.build_message(stage.now).num_crashes == 0
    crash(stage)
    assert isinstance(stage.request.error, EngineFailure)


def test_a_crash_of_a_former_attempt_does_not_count() -> None:
    stage = Stage().start()
    crash(stage)
    for _ in range(MAX_CRASHES):
        assert stage.request.on_crashed(1, stage.now, stage.fleet, "late") == []
    assert not stage.request.is_done


def test_rows_of_a_lower_attempt_are_dropped() -> None:
    stage = Stage().start()
    stage.row(0, [3])
    stage.request.on_bounced(1, stage.now, stage.fleet)
    assert not stage.row(1, [4], attempt=1)
    assert stage.row(1, [5], attempt=2)
    assert stage.request.streams[0].output_ids == [3, 5]


def test_a_bounce_of_a_former_attempt_changes_nothing() -> None:
    stage = Stage().start()
    stage.request.on_bounced(1, stage.now, stage.fleet)
    assert stage.request.on_bounced(1, stage.now, stage.fleet) == []
    assert stage.request.attempt == 2


def test_repeated_bounces_are_answered_more_and_more_slowly() -> None:
    stage = Stage().start()
    waits = []
    for _ in range(6):
        started = stage.now
        actions = stage.request.on_bounced(stage.request.attempt, stage.now, stage.fleet)
        while not actions:
            actions = stage.pass_time(0.05)
        waits.append(stage.now - started)
        stage.accept()
    assert waits[0] == 0
    assert waits == sorted(waits)
    assert waits[-1] <= 1.1


def test_an_unreported_request_is_submitted_again_after_a_lease() -> None:
    stage = Stage().start()
    assert stage.pass_time(1.1) == []
    assert stage.pass_time(0.3) == [Submit(2)]


def test_a_reported_request_is_left_alone() -> None:
    stage = Stage().start()
    assert stage.pass_time(10, held_by="w1") == []


def test_no_lease_runs_out_while_the_bus_is_away_and_one_is_granted_after() -> None:
    stage = Stage().start()
    assert stage.pass_time(20, bus=False) == []
    assert stage.pass_time(1.1) == []
    assert stage.pass_time(0.3) == [Submit(2)]


def test_the_death_of_the_holder_is_answered_at_once() -> None:
    stage = Stage().start()
    stage.row(0, [3])
    stage.fleet.on_heartbeat(Heartbeat("worker", "w1", 1, STOPPED, 0.3, "m"), stage.now)
    assert stage.request.on_gone("worker", "w1", stage.now, stage.fleet) == [Submit(2)]


def test_the_death_of_others_is_no_concern() -> None:
    stage = Stage().start()
    stage.row(0, [3])
    assert stage.request.on_gone("worker", "w2", stage.now, stage.fleet) == []
    assert stage.request.on_gone("router", "r1", stage.now, stage.fleet) == [], "the worker has it already"


def test_a_restarted_worker_that_is_alive_is_told_to_free_the_former_attempt() -> None:
    stage = Stage().start()
    stage.row(0, [3])
    actions = stage.request.on_gone("worker", "w1", stage.now, stage.fleet)
    assert actions == [SendCancel("w1", 1, "another attempt"), Submit(2)]


def test_a_dead_detokenizer_leads_to_a_replay_towards_another() -> None:
    stage = Stage().start()
    stage.row(0, [3])
    dead = stage.request.detokenizer_id
    other = {"d1": "d2", "d2": "d1"}[dead]
    stage.live["detokenizer"] = [other]
    stage.fleet.on_heartbeat(Heartbeat("detokenizer", dead, 1, STOPPED, 0.3, "m"), stage.now)
    actions = stage.request.on_gone("detokenizer", dead, stage.now, stage.fleet)
    assert actions == [SendReplay("w1", ["q:0"], 1, other)]
    assert stage.request.attempt == 1


def test_what_a_worker_has_made_and_never_arrives_is_asked_for_again() -> None:
    stage = Stage().start()
    stage.row(0, [3])
    stage.request.on_stream_report(0, 1, next_index=3, finished=False)
    actions = stage.pass_time(0.4, held_by="w1")
    assert [type(action) for action in actions] == [SendReplay]


def test_a_gap_is_asked_for_though_the_stream_goes_on() -> None:
    stage = Stage().start()
    stage.row(0, [3])
    actions = []
    for index in range(2, 9):
        stage.row(index, [4])
        actions += stage.pass_time(0.05, held_by="w1")
    assert [type(action) for action in actions] == [SendReplay]


def test_replays_without_effect_end_in_another_attempt() -> None:
    stage = Stage().start()
    stage.row(0, [3])
    stage.request.on_stream_report(0, 1, next_index=1, finished=True)
    actions = stage.pass_time(8, held_by="w1")
    kinds = [type(action) for action in actions]
    assert kinds[:7] == [SendReplay] * 5 + [SendCancel, Submit]
    assert len({action.detokenizer_id for action in actions if isinstance(action, SendReplay)}) == 2


def test_a_stream_that_is_finished_here_need_not_run_there() -> None:
    stage = Stage(num_choices=2).start()
    stage.row(0, [3], STOP)
    assert not stage.request.on_stream_report(0, 1, next_index=5, finished=False)
    assert stage.request.on_stream_report(0, 1, next_index=1, finished=True)
    assert stage.request.on_stream_report(1, 1, next_index=1, finished=False)


def test_all_choices_finished_is_the_end() -> None:
    stage = Stage(num_choices=2).start()
    stage.row(0, [3], STOP)
    assert not stage.request.is_done
    stage.row(0, [4], STOP, choice=1)
    assert stage.request.is_done
    assert stage.request.error is None
    assert stage.request.cancel() == []


def test_the_deadline_ends_a_request_wherever_it_is() -> None:
    stage = Stage(timeout_s=2.0).start()
    stage.row(0, [3])
    actions = stage.pass_time(2.1, held_by="w1")
    assert actions == [SendCancel("w1", 1, "deadline_exceeded")]
    assert stage.request.error is not None
    assert stage.request.error.status == 504


def test_what_had_passed_before_it_came_here_counts_towards_the_deadline() -> None:
    stage = Stage(timeout_s=2.0, waited_s=1.5).start()
    assert stage.request.build_message(stage.now).timeout_s == pytest.approx(0.5)
    assert stage.pass_time(0.4, held_by="w1") == []
    assert stage.pass_time(0.2, held_by="w1") == [SendCancel("w1", 1, "deadline_exceeded")]


def test_a_full_line_is_told_to_a_new_client_and_borne_by_one_that_was_accepted() -> None:
    full = SubmitReply(False, "r1", code="queue_full", reason="full", retry_after_s=2)
    stage = Stage()
    stage.submit()
    stage.request.on_reply(1, full, stage.now, stage.fleet)
    assert stage.request.error is not None
    assert (stage.request.error.status, stage.request.error.retry_after_s) == (429, 2)

    stage = Stage().start()
    stage.request.on_bounced(1, stage.now, stage.fleet)
    stage.request.on_reply(2, full, stage.now, stage.fleet)
    assert stage.request.error is None
    assert Submit(3) in stage.pass_time(0.2)


def test_a_refusal_for_good_ends_any_attempt() -> None:
    stage = Stage().start()
    stage.request.on_bounced(1, stage.now, stage.fleet)
    refusal = SubmitReply(False, "r1", code="context_length_exceeded", reason="too long")
    stage.request.on_reply(2, refusal, stage.now, stage.fleet)
    assert stage.request.error is not None
    assert stage.request.error.status == 400


def test_a_new_request_without_any_router_fails_after_five_seconds_with_503() -> None:
    stage = Stage()
    actions = stage.submit()
    started = stage.now
    while not stage.request.is_done:
        for action in actions:
            if isinstance(action, Submit):
                stage.request.on_no_reply(action.attempt, NoResponders("none"), stage.now, stage.fleet)
        actions = stage.pass_time(0.05)
    assert 5 <= stage.now - started < 6.2
    assert stage.request.error is not None
    assert (stage.request.error.status, stage.request.error.retry_after_s) == (503, 1.0)


def test_a_silent_router_is_given_less_than_a_lease_and_then_more_and_more() -> None:
    """One that was killed with the submission in its hands never answers; one that is only slow may."""
    stage = Stage()
    stage.submit()
    waits = []
    for attempt in range(1, 6):
        waits.append(stage.request.answer_timeout_s(TIMING.lease_s))
        stage.request.on_no_reply(attempt, RequestTimeout("none"), stage.now, stage.fleet)
        assert stage.pass_time(0.5) == [Submit(attempt + 1)]
    assert waits == [0.4, 0.8, 1.2, 1.2, 1.2]
    stage.request.on_reply(6, SubmitReply(True, "r1"), stage.now, stage.fleet)
    assert stage.request.answer_timeout_s(TIMING.lease_s) == 0.4


def test_after_silence_the_router_that_was_heard_last_is_asked() -> None:
    stage = Stage()
    stage.live["router"] = ["paused", "r2"]
    stage.beat()
    stage.live["router"] = ["r2"]
    stage.submit()
    asked = []
    for attempt in range(1, 5):
        asked.append(stage.request.router_to_ask(stage.fleet))
        stage.request.on_no_reply(attempt, RequestTimeout("none"), stage.now, stage.fleet)
        assert stage.pass_time(0.5) == [Submit(attempt + 1)]
    assert asked == ["", "r2", "", "r2"]


def test_an_accepted_request_waits_without_end_for_a_router() -> None:
    stage = Stage().start()
    actions = stage.request.on_bounced(1, stage.now, stage.fleet)
    for _ in range(1200):
        for action in actions:
            if isinstance(action, Submit):
                stage.request.on_no_reply(action.attempt, RequestTimeout("none"), stage.now, stage.fleet)
        actions = stage.pass_time(0.05)
    assert not stage.request.is_done


def test_a_message_over_the_bus_limit_is_told_to_the_client() -> None:
    stage = Stage()
    stage.submit()
    stage.request.on_no_reply(1, PayloadTooLarge("too long"), stage.now, stage.fleet)
    assert stage.request.error is not None
    assert stage.request.error.status == 413


def test_without_a_detokenizer_a_new_request_waits_and_then_goes_on() -> None:
    stage = Stage()
    stage.live["detokenizer"] = []
    stage.fleet = Fleet("m", TIMING, random.Random(1))
    stage.beat()
    assert stage.submit() == []
    assert stage.request.phase is Phase.WAITING
    stage.live["detokenizer"] = ["d9"]
    assert stage.pass_time(0.2) == [Submit(1)]
    assert stage.request.detokenizer_id == "d9"


def test_an_engine_error_ends_the_request_with_its_words() -> None:
    stage = Stage().start()
    failed = Row(1, 0, [], "", 0, ERROR, error="no such adapter")
    assert stage.request.on_row(0, failed, "w1", stage.now)
    assert stage.request.error is not None
    assert stage.request.error.message == "no such adapter"


def test_a_client_that_leaves_frees_what_is_held_anywhere() -> None:
    stage = Stage().start()
    assert stage.request.cancel() == [SendCancel("", 1, "cancelled by the client")]
    stage = Stage().start()
    stage.row(0, [3])
    assert stage.request.cancel() == [SendCancel("w1", 1, "cancelled by the client")]
    assert stage.request.cancel() == []
