import pytest

from services.common.liveness import Liveness


@pytest.fixture
def liveness():
    """A bus that has worked since the start, and two who were heard at 0."""
    liveness = Liveness(heartbeat_s=0.3, lease_s=1.2)
    liveness.saw_own_beat(0.0)
    for who in ("a", "b"):
        liveness.saw(who, 0.0)
    return liveness


def beats(liveness, until, start=0.0):
    now = start
    while now <= until:
        liveness.saw_own_beat(now)
        now += 0.3


def test_who_is_not_heard_for_a_lease_is_silent(liveness):
    beats(liveness, 1.5)
    liveness.saw("b", 1.0)
    assert liveness.silent(1.1) == []
    assert liveness.silent(1.6) == ["a"]
    assert liveness.silent(1.6, leases=3) == []
    liveness.forget("a")
    assert liveness.silent(1.6) == []


def test_nobody_is_silent_while_own_beats_do_not_return(liveness):
    assert liveness.silent(100.0) == []


def test_everybody_gets_a_whole_lease_after_the_bus_was_away(liveness):
    beats(liveness, 11.0, start=10.0)
    assert liveness.silent(11.0) == []
    beats(liveness, 11.4, start=11.2)
    assert liveness.silent(11.5) == ["a", "b"]


def test_a_mention_starts_a_lease_and_does_not_renew_it(liveness):
    liveness.saw_first("c", 0.0)
    liveness.saw_first("c", 1.0)
    beats(liveness, 1.5)
    assert liveness.silent(1.6) == ["a", "b", "c"]
