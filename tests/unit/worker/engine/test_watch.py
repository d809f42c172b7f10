"""What is told as the cause when processes of an engine end together. Their /proc is a folder of the test's."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.worker.engine.watch import STOPPED, EngineWatch
from services.worker.processes import has_ended, is_killed
from services.worker.runner.reports import MAX_REASON, Report, Reports

RANK_0, RANK_1, RANK_2 = 100, 101, 102
EXITING = 0x404  # PF_EXITING among others


class Engine:
    """Three ranks that run, as the control process sees them."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        self.sockets = (ours, theirs)
        self.reports = Reports(theirs)
        for pid in (RANK_0, RANK_1, RANK_2):
            self.set(pid)
        self.watch = EngineWatch(RANK_0, ours, proc)
        for rank, pid in ((1, RANK_1), (2, RANK_2)):
            self.reports.send(Report(rank, pid=pid))

    def set(self, pid: int, state: str = "S", *, flags: int = 0x400, exit_code: int = 0) -> None:
        """The fields as proc(5) numbers them, the name included, which may hold anything."""
        fields = {3: state, 9: flags, 52: exit_code}
        (self._proc / str(pid)).mkdir(exist_ok=True)
        rest = " ".join(str(fields.get(number, 1)) for number in range(3, 53))
        (self._proc / str(pid) / "stat").write_text(f"{pid} (a (b) c) {rest}")

    def kill(self, pid: int) -> None:
        self.set(pid, "Z", exit_code=9)

    def fail(self, rank: int, why: str) -> None:
        self.reports.send(Report(rank, failure=why))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path)
    yield made
    for end in made.sockets:
        end.close()


def test_nothing_is_wrong_while_all_ranks_run(engine: Engine) -> None:
    assert engine.watch.look() == ""
    assert not engine.watch.has_lost_rank


def test_a_rank_says_itself_why_it_ends(engine: Engine) -> None:
    engine.fail(2, "no room for KV")
    engine.set(RANK_2, "Z", exit_code=2 << 8)
    assert engine.watch.look() == "rank 2 failed: no room for KV"
    assert not engine.watch.has_lost_rank


def test_a_rank_that_crashed_without_a_word_is_named(engine: Engine) -> None:
    engine.set(RANK_1, "Z", exit_code=11)
    assert engine.watch.look() == "the process of rank 1 has ended"
    assert not engine.watch.has_lost_rank


@pytest.mark.parametrize(("state", "flags"), [("Z", 0x400), ("D", EXITING)])
def test_a_killed_rank_is_the_cause_whatever_its_peers_say(engine: Engine, state: str, flags: int) -> None:
    engine.fail(1, "RuntimeError: connection closed by peer")
    engine.set(RANK_1, "Z", exit_code=1 << 8)
    engine.set(RANK_2, state, flags=flags, exit_code=9)
    assert engine.watch.look() == "rank 2 was killed by signal 9"
    assert engine.watch.has_lost_rank


def test_a_killed_rank_stays_the_cause_when_the_others_are_taken_along(engine: Engine) -> None:
    engine.kill(RANK_2)
    engine.watch.look()
    engine.kill(RANK_1)
    engine.set(RANK_0, "Z", exit_code=6)
    assert engine.watch.look() == ""  # rank 0's end speaks for itself
    assert engine.watch.has_lost_rank


@pytest.mark.parametrize(("state", "flags"), [("Z", 0x400), ("R", EXITING)])
def test_ranks_that_end_with_rank_0_were_not_killed_by_anyone(engine: Engine, state: str, flags: int) -> None:
    engine.set(RANK_0, state, flags=flags, exit_code=11)
    engine.kill(RANK_1)
    engine.kill(RANK_2)
    assert engine.watch.look() == ""
    assert not engine.watch.has_lost_rank


def test_ranks_that_rank_0_kills_when_it_fails_are_not_the_cause(engine: Engine) -> None:
    engine.fail(0, "half a checkpoint")
    engine.kill(RANK_1)
    assert engine.watch.look() == "half a checkpoint"
    assert not engine.watch.has_lost_rank


def test_a_stopped_process_is_seen(engine: Engine) -> None:
    engine.set(RANK_0, "T", exit_code=19)
    assert engine.watch.look() == STOPPED


def test_a_process_without_a_trace_has_ended_and_was_not_seen_killed(engine: Engine, tmp_path: Path) -> None:
    assert has_ended(999, tmp_path)
    assert not is_killed(999, tmp_path)


def test_a_report_never_waits_and_a_long_one_is_cut(engine: Engine) -> None:
    for _ in range(10_000):  # far more than the socket holds
        engine.fail(1, "x" * 100_000)
    assert engine.watch.look() == "rank 1 failed: " + "x" * MAX_REASON
