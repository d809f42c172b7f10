"""Sequences under which engines have died are let in one at a time, beside those that run already."""

from __future__ import annotations

from services.worker.scheduler import State
from services.worker.scheduler.trial import IDS_TO_PASS
from tests.unit.worker.scheduler.harness import Harness


def prompt(length: int, start: int) -> list[int]:
    return [(start + 3 * i) % 97 for i in range(length)]


def test_only_one_suspect_at_a_time_has_drawn_less_than_it_must_to_pass() -> None:
    h = Harness(max_step_tokens=64, depth=1)
    runs = h.add(prompt(5, 0), max_tokens=60)
    suspects = [h.add(prompt(5, i), max_tokens=10, is_suspect=True) for i in range(1, 5)]
    innocent = h.add(prompt(5, 9), max_tokens=10)
    while h.scheduler.has_work:
        h.step()
        untested = [s for s in suspects if s.is_running and len(h.emitted[s.handle]) < IDS_TO_PASS]
        assert len(untested) <= 1
        if untested:
            assert h.scheduler.to_blame() == [untested[0].handle]
            assert innocent.state is State.WAITING
    h.assert_exact()
    assert len(h.emitted[runs.handle]) == 60


def test_whoever_runs_already_goes_on_beside_a_suspect() -> None:
    h = Harness(depth=0)
    runs = h.add(prompt(5, 0), max_tokens=30)
    h.step()
    h.add(prompt(20, 1), max_tokens=2, is_suspect=True)
    before = len(h.emitted[runs.handle])
    h.step()
    assert len(h.emitted[runs.handle]) == before + 1
    h.run()
    h.assert_exact()


def test_a_suspect_that_is_cancelled_or_ends_early_holds_nobody_up() -> None:
    h = Harness(depth=1)
    gone = h.add(prompt(5, 0), max_tokens=30, is_suspect=True)
    h.step()
    h.scheduler.cancel(gone)
    short = h.add(prompt(5, 1), max_tokens=1, is_suspect=True)
    last = h.add(prompt(5, 2), max_tokens=3)
    h.run()
    assert h.emitted[short.handle] == h.expected(short)
    assert h.emitted[last.handle] == h.expected(last)


def test_without_a_suspect_all_that_run_are_to_blame() -> None:
    h = Harness(depth=1)
    added = [h.add(prompt(5, i), max_tokens=9) for i in range(3)]
    h.step()
    assert sorted(h.scheduler.to_blame()) == [s.handle for s in added]
