import random

import pytest

from services.common.messages.codec import encode
from services.common.messages.events import DRAINING, READY, STOPPED, Heartbeat, WorkerLoad
from services.common.messages.request import SubmitReply
from services.router.fleet import PREFILL_BACKLOG_TOKENS, RETRY_BEATS, Charge, Fleet
from services.router.placement import Placement
from services.router.policy import make_policy
from services.router.prefix_index import PrefixIndex
from services.router.request import queued_request
from tests.fakes.workers import generate_request


def beat(worker_id="w", *, epoch=1, state=READY, model="m", **load):
    values = {"max_running": 8, "free_blocks": 100, "total_blocks": 100, "block_size": 16} | load
    return Heartbeat("worker", worker_id, epoch, state, 0.3, model, worker=WorkerLoad(**values))


@pytest.fixture
def fleet():
    fleet = Fleet()
    fleet.on_heartbeat(beat())
    return fleet


def accepted(number):
    return SubmitReply(True, "w", num_accepted=number)


def test_a_dispatch_counts_once_from_sending_until_a_heartbeat_includes_it(fleet):
    worker, charge = fleet.get("w"), Charge(2, 100, 7)
    fleet.on_dispatched(worker, charge)
    assert (worker.num_sequences, worker.prefill_tokens, worker.free_blocks) == (2, 100, 93)
    fleet.on_answered(worker, charge, accepted(1))
    assert worker.num_sequences == 2
    fleet.on_heartbeat(beat())  # made before it was accepted
    assert worker.num_sequences == 2
    fleet.on_heartbeat(beat(running=2, free_blocks=93, num_accepted=1))
    assert (worker.num_sequences, worker.prefill_tokens, worker.free_blocks) == (2, 0, 93)


def test_a_heartbeat_that_overtakes_the_answer_does_not_count_twice(fleet):
    worker, charge = fleet.get("w"), Charge(2, 100, 7)
    fleet.on_dispatched(worker, charge)
    fleet.on_heartbeat(beat(running=2, num_accepted=1))
    fleet.on_answered(worker, charge, accepted(1))
    assert (worker.num_sequences, worker.prefill_tokens) == (2, 0)


def test_a_worker_that_says_retry_is_left_alone_until_its_load_falls(fleet):
    worker, charge = fleet.get("w"), Charge(1, 1, 1)
    fleet.on_heartbeat(beat(running=8))
    fleet.on_dispatched(worker, charge)
    fleet.on_answered(worker, charge, SubmitReply(False, "w", retry=True))
    assert (worker.takes_work, worker.num_sequences) == (False, 8)
    fleet.on_heartbeat(beat(running=8))
    assert not worker.takes_work
    fleet.on_heartbeat(beat(running=7))
    assert worker.takes_work


def test_a_worker_that_said_retry_is_asked_again_after_some_heartbeats(fleet):
    worker = fleet.get("w")
    fleet.on_dispatched(worker, Charge())
    fleet.on_answered(worker, Charge(), SubmitReply(False, "w", retry=True))
    for _ in range(RETRY_BEATS):
        assert not worker.takes_work
        fleet.on_heartbeat(beat())
    assert worker.takes_work


def test_a_worker_whose_beats_are_missing_gets_nothing_until_it_is_heard(placement):
    for name in ("w", "other"):
        placement.fleet.on_heartbeat(beat(name))
    placement.fleet.mark_overdue("w")
    assert {placement.place(request_of(9)).worker.worker_id for _ in range(20)} == {"other"}
    placement.fleet.mark_overdue("other")
    assert placement.place(request_of(9)) is None
    assert placement.too_long(request_of(9)) is None, "it waits: one of them may come back"
    placement.fleet.on_heartbeat(beat("w"))
    assert placement.place(request_of(9)).worker.worker_id == "w"


def test_a_request_refused_for_good_does_not_close_its_worker(fleet):
    worker = fleet.get("w")
    fleet.on_dispatched(worker, Charge(1))
    fleet.on_answered(worker, Charge(1), SubmitReply(False, "w", code="invalid_value"))
    assert (worker.takes_work, worker.num_sequences) == (True, 0)


@pytest.mark.parametrize(
    ("load", "charge", "has_room"),
    [
        ({}, Charge(100, 10**9, 10**9), True),  # idle: nobody else could start it sooner
        ({"running": 8}, Charge(2, 1, 1), True),  # two beyond the batch
        ({"running": 8, "waiting": 1}, Charge(2, 1, 1), False),
        ({"running": 8, "max_running": 64}, Charge(64, 1, 1), True),
        ({"running": 1, "waiting_prefill_tokens": PREFILL_BACKLOG_TOKENS + 1}, Charge(1, 1, 1), False),
        ({"running": 1, "free_blocks": 5}, Charge(1, 1, 6), False),
        ({"running": 1, "free_blocks": 5}, Charge(1, 1, 5), True),
    ],
)
def test_room(fleet, load, charge, has_room):
    fleet.on_heartbeat(beat(**load))
    assert fleet.get("w").has_room(charge) is has_room


def test_a_restart_forgets_what_was_sent_and_its_past_is_ignored(fleet):
    fleet.on_dispatched(fleet.get("w"), Charge(3))
    assert fleet.on_heartbeat(beat(epoch=2))
    assert fleet.get("w").num_sequences == 0
    assert not fleet.on_heartbeat(beat(epoch=1, running=8))
    assert not fleet.on_heartbeat(beat(epoch=1, state=STOPPED))
    assert (fleet.get("w").epoch, fleet.get("w").load.running) == (2, 0)


def test_draining_and_stopped_workers_get_nothing(fleet):
    assert fleet.num_ready() == 1
    fleet.on_heartbeat(beat(state=DRAINING))
    assert (fleet.of_model("m"), fleet.num_ready(), len(fleet)) == ([], 0, 1)
    assert not fleet.on_heartbeat(beat(state=STOPPED))
    assert fleet.get("w") is None


# -- placement ---------------------------------------------------------------------------------------------------


def request_of(length, *, max_tokens=10, model="m", prompt_logprobs=-1):
    message = generate_request("r", list(range(length)), max_tokens=max_tokens, model=model)
    message.prompt_logprobs = prompt_logprobs
    return queued_request(message, encode(message), 0.0)


@pytest.fixture
def placement():
    return Placement(Fleet(), PrefixIndex(), make_policy("cache_aware", random.Random(0)))


def test_a_prompt_goes_to_its_prefix_even_where_the_rest_would_not_fit_cold(placement):
    placement.fleet.on_heartbeat(beat("full", running=1, free_blocks=4))
    placement.fleet.on_heartbeat(beat("none", running=1, free_blocks=0))
    request = request_of(160)
    assert placement.place(request) is None
    placement.index.store("full", list(request.blocks(16))[:8])
    placed = placement.place(request)
    assert (placed.worker.worker_id, placed.cached_tokens) == ("full", 128)
    assert placed.charge == Charge(1, 32, 2)


def test_a_prompt_to_score_is_charged_whole_wherever_it_is_cached(placement):
    placement.fleet.on_heartbeat(beat("has-it", running=1))
    placement.fleet.on_heartbeat(beat("idle"))
    placement.index.store("has-it", list(request_of(160).blocks(16)))
    placed = placement.place(request_of(160, prompt_logprobs=0))
    assert (placed.worker.worker_id, placed.cached_tokens) == ("idle", 0)
    assert placed.charge.prefill_tokens == 160


def test_workers_of_other_models_and_too_small_ones_are_not_asked(placement):
    placement.fleet.on_heartbeat(beat("other", model="x"))
    request = request_of(100)
    assert placement.place(request) is None
    assert placement.too_long(request) is None  # nobody is there who could say so
    placement.fleet.on_heartbeat(beat("small", max_request_tokens=109))
    assert placement.place(request) is None
    assert "109 tokens" in placement.too_long(request).message
    placement.fleet.on_heartbeat(beat("large", max_request_tokens=110))
    assert placement.too_long(request) is None
    assert placement.place(request).worker.worker_id == "large"
