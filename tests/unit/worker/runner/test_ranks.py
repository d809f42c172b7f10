"""Ranks in other processes: they report why they cannot load, and a rank that dies fails the step at once."""

import os
import signal
import threading
from pathlib import Path

import pytest

from services.worker.errors import RankKilled, RunnerError, WeightsError
from services.worker.runner.config import RunnerConfig
from services.worker.runner.interface import Runner
from services.worker.runner.plan import StepPlan
from services.worker.runner.start import start_runner
from tests.fakes.naive_engine import Job, NaiveEngine
from tests.fakes.tiny_model import make_model


def config(model_dir: Path) -> RunnerConfig:
    return RunnerConfig(
        str(model_dir), device="cpu", tp=2, max_slots=4, max_total_token_num=512, cpu_threads=1
    )


@pytest.fixture
def runner(tmp_path: Path):
    runner = start_runner(config(make_model(tmp_path)))
    yield runner
    runner.close()


def other_rank(runner: Runner) -> int:
    return runner._ranks._processes[0].pid  # type: ignore[attr-defined]


def test_a_killed_rank_fails_the_next_step(runner):
    assert len(NaiveEngine(runner).generate([Job([1, 2, 3], 4)])[0]) == 4
    os.kill(other_rank(runner), signal.SIGKILL)

    def steps() -> None:
        for step in range(100):
            runner.launch(StepPlan(step, decode_slots=[0])).result()

    with pytest.raises(RankKilled, match="rank 1 was killed by signal 9"):
        steps()


def test_a_rank_killed_just_after_its_peer_fails_is_the_cause(runner, monkeypatch):
    """A collective notices a peer that dies before its process and its link are seen to be gone."""

    def launch(plan: StepPlan) -> None:
        threading.Timer(0.2, os.kill, (other_rank(runner), signal.SIGKILL)).start()
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(runner._local, "launch", launch)
    with pytest.raises(RankKilled, match="rank 1 was killed by signal 9"):
        runner.launch(StepPlan(0))


def test_closing_ends_the_other_ranks_and_can_be_done_twice(runner):
    pid = other_rank(runner)
    runner.close()
    runner.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RunnerError, match="closed"):
        runner.launch(StepPlan(0))


def test_a_checkpoint_that_no_rank_can_load_is_told_as_on_one_rank(tmp_path):
    make_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="holds no weights"):
        start_runner(config(tmp_path))
