"""Rank 0's hold on processes that do as they are told here, in place of loading a model: whose end is told as the cause."""

import sys
from collections.abc import Callable, Iterator

import pytest

from services.worker.errors import DeviceMemoryError, RankKilled, RunnerError
from services.worker.runner.config import RunnerConfig
from services.worker.runner.ranks import GRACE_SECONDS, RankProcesses
from services.worker.runner.reports import Reports

# Each word is what the rank of that number does, once it has its settings.
SCRIPT = """
import os, resource, signal, socket, sys, time
from services.worker.errors import DeviceMemoryError, RunnerError
from services.worker.runner.ranks import receive, report
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
rank, link = int(sys.argv[-2]), socket.socket(fileno=int(sys.argv[-1]))
receive(link)
for act in sys.argv[rank].split():
    if act == "go":
        receive(link)
    elif act == "loaded":
        report(link, None)
    elif act == "memory":
        report(link, DeviceMemoryError("no room"))
    elif act == "peer":
        report(link, RunnerError("connection closed by peer"))
    elif act == "end":
        os._exit(1)
    elif act in ("SIGKILL", "SIGSEGV"):
        os.kill(os.getpid(), getattr(signal, act))
    else:
        time.sleep(float(act))
"""
Start = Callable[..., RankProcesses]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[RankProcesses] = []

    def run(*acts: str) -> RankProcesses:
        config = RunnerConfig("/", tp=len(acts) + 1)
        made.append(RankProcesses(config, 0, Reports(), (sys.executable, "-c", SCRIPT, *acts)))
        return made[0]

    yield run
    for ranks in made:
        ranks.kill()


LOADED = "loaded loaded"


def loaded(start: Start, *acts: str) -> RankProcesses:
    ranks = start(*(f"{LOADED} {act}" for act in acts))
    ranks.wait_until_loaded()
    ranks.wait_until_loaded()
    return ranks


def test_a_rank_that_fails_is_heard_while_another_says_nothing(start: Start) -> None:
    with pytest.raises(DeviceMemoryError, match="rank 2 failed: no room"):
        start("600", "memory end").wait_until_loaded()


def test_a_rank_that_dies_while_loading_is_named_with_how(start: Start) -> None:
    with pytest.raises(RunnerError, match="rank 1 is gone, exit code -11"):
        start("SIGSEGV").wait_until_loaded()


def test_a_failure_that_another_rank_explains_while_loading_is_its(start: Start) -> None:
    ranks = start("loaded loaded 600", "loaded go 0.1 memory end")
    ranks.wait_until_loaded()
    ranks.broadcast(b"go")
    with pytest.raises(DeviceMemoryError, match="rank 2 failed: no room"):
        ranks.check_loading()


def test_a_failure_that_no_rank_explains_while_loading_stays(start: Start) -> None:
    ranks = start("loaded loaded 600")
    ranks.wait_until_loaded()
    ranks.check_loading()


def test_a_failure_that_no_rank_explains_stays(start: Start) -> None:
    ranks = loaded(start, "600", "600")
    ranks.check()
    ranks.check(GRACE_SECONDS)


def test_a_killed_rank_is_the_cause_though_its_peer_speaks_first(start: Start) -> None:
    ranks = loaded(start, "go peer end", "go 0.2 SIGKILL")
    ranks.broadcast(b"go")
    with pytest.raises(RankKilled, match="rank 2 was killed by signal 9"):
        ranks.check(60.0)


def test_a_killed_rank_is_the_cause_while_it_loads(start: Start) -> None:
    ranks = start("loaded go peer end", "loaded go 0.2 SIGKILL")
    ranks.wait_until_loaded()
    ranks.broadcast(b"go")
    with pytest.raises(RankKilled, match="rank 2 was killed by signal 9"):
        ranks.wait_until_loaded()


def test_the_first_of_several_that_fail_is_the_cause(start: Start) -> None:
    ranks = loaded(start, "go 0.2 peer end", "go memory end")
    ranks.broadcast(b"go")
    with pytest.raises(DeviceMemoryError, match="rank 2 failed: no room"):
        ranks.check(60.0)
