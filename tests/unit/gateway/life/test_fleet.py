from __future__ import annotations

import random

import pytest

from services.common.lifecycle import Timing
from services.common.messages.events import DRAINING, READY, STOPPED, Heartbeat, WorkerLoad
from services.gateway.life.fleet import Fleet

TIMING = Timing(heartbeat_s=0.3, lease_s=1.2)


def new_fleet() -> Fleet:
    return Fleet("m", TIMING, random.Random(0))


def beat(service: str, name: str, state: str = READY, epoch: int = 1, model: str = "m") -> Heartbeat:
    worker = WorkerLoad(max_request_tokens=100) if service == "worker" else None
    return Heartbeat(service, name, epoch, state, 0.3, model, worker=worker)


def hear(fleet: Fleet, now: float, *others: Heartbeat) -> None:
    fleet.on_own_beat(now)
    for other in others:
        fleet.on_heartbeat(other, now)


def test_a_service_silent_for_a_lease_is_gone() -> None:
    fleet = new_fleet()
    hear(fleet, 0.0, beat("worker", "w1"), beat("router", "r1"))
    for i in range(1, 6):
        hear(fleet, 0.3 * i, beat("router", "r1"))
    assert fleet.remove_expired(1.5) == [("worker", "w1")]
    assert fleet.is_live("router", "r1")


def test_nobody_is_dead_while_own_beats_do_not_return() -> None:
    fleet = new_fleet()
    hear(fleet, 0.0, beat("worker", "w1"))
    assert fleet.remove_expired(5.0) == []
    assert not fleet.is_bus_trusted(5.0)


def test_everybody_has_one_lease_after_the_bus_came_back() -> None:
    fleet = new_fleet()
    hear(fleet, 0.0, beat("worker", "w1"))
    for i in range(10):
        hear(fleet, 10.0 + 0.3 * i)
        gone = fleet.remove_expired(10.0 + 0.3 * i)
        assert gone == ([("worker", "w1")] if i == 5 else [])


def test_who_was_heard_last() -> None:
    fleet = new_fleet()
    assert fleet.last_heard("router") == ""
    hear(fleet, 0.0, beat("router", "r1"), beat("router", "r2"), beat("worker", "w1"))
    hear(fleet, 0.4, beat("router", "r1"))
    assert fleet.last_heard("router") == "r1"
    hear(fleet, 0.8, beat("router", "r2"), beat("router", "r1", DRAINING))
    assert fleet.last_heard("router") == "r2"


DEFAULT = Timing()
PHASES = [DEFAULT.heartbeat_s * i / 20 for i in range(21)]


def play(beats: list[tuple[float, str]], until: float) -> list[float]:
    """When a gateway with the default timing, which looks every 0.05 s, takes the worker w1 for dead."""
    fleet, deaths = Fleet("m", DEFAULT, random.Random(0)), []
    for at, who in sorted([*beats, *((0.05 * i, "tick") for i in range(round(until / 0.05)))]):
        if who == "own":
            fleet.on_own_beat(at)
        elif who == "w1":
            fleet.on_heartbeat(beat("worker", "w1"), at)
        elif fleet.remove_expired(at):
            deaths.append(at)
    return deaths


def beats_of(who: str, phase: float, until: float) -> list[tuple[float, str]]:
    return [
        (phase + DEFAULT.heartbeat_s * i, who) for i in range(99) if phase + DEFAULT.heartbeat_s * i < until
    ]


@pytest.mark.parametrize("phase", PHASES)
def test_a_death_is_seen_within_1_5_s(phase: float) -> None:
    deaths = play([*beats_of("own", 0.0, 9.0), *beats_of("w1", phase, 4.0)], 9.0)
    assert len(deaths) == 1
    assert 4.0 < deaths[0] < 5.5


@pytest.mark.parametrize("phase", PHASES)
def test_two_beats_lost_in_a_row_are_no_death(phase: float) -> None:
    heard = [(at, who) for i, (at, who) in enumerate(beats_of("w1", phase, 9.0)) if i % 3 == 0]
    assert play([*beats_of("own", 0.0, 9.0), *heard], 9.0) == []


@pytest.mark.parametrize("own_phase", PHASES)
@pytest.mark.parametrize("phase", PHASES)
def test_a_bus_that_stops_at_any_moment_makes_nobody_dead(phase: float, own_phase: float) -> None:
    stopped_at, back_at = 4.0, 9.0
    heard = [*beats_of("own", own_phase, 12.0), *beats_of("w1", phase, 12.0)]
    assert play([(at, who) for at, who in heard if not stopped_at < at < back_at], 12.0) == []


def test_a_restart_and_a_stop_tell_that_all_is_gone() -> None:
    fleet = new_fleet()
    assert not fleet.on_heartbeat(beat("worker", "w1", epoch=1), 0.0)
    assert fleet.on_heartbeat(beat("worker", "w1", epoch=2), 0.1)
    assert not fleet.on_heartbeat(beat("worker", "w1", epoch=1), 0.2), "a late beat of the former life"
    assert fleet.on_heartbeat(beat("worker", "w1", STOPPED, epoch=2), 0.3)
    assert not fleet.is_live("worker", "w1")


def test_detokenizers_are_picked_among_those_that_take_work() -> None:
    fleet = new_fleet()
    assert fleet.pick_detokenizer() == ""
    hear(
        fleet, 0.0, beat("detokenizer", "d1"), beat("detokenizer", "d2", DRAINING), beat("detokenizer", "d3")
    )
    assert {fleet.pick_detokenizer() for _ in range(50)} == {"d1", "d3"}
    assert {fleet.pick_detokenizer(avoid=["d1"]) for _ in range(50)} == {"d3"}
    assert fleet.pick_detokenizer(avoid=["d1", "d3"]) in ("d1", "d3")


def test_workers_of_other_models_are_no_concern() -> None:
    fleet = new_fleet()
    hear(fleet, 0.0, beat("router", "r1"), beat("detokenizer", "d1"), beat("worker", "w9", model="other"))
    assert fleet.missing() == "no live worker"
    assert fleet.max_request_tokens() == 0
    fleet.on_heartbeat(beat("worker", "w1"), 0.0)
    assert fleet.missing() == ""
    assert fleet.max_request_tokens() == 100
