"""What `up` leaves on disk, and what the other commands read from it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from services.cli import rundir
from services.cli.rundir import RunDir, RunState
from services.common.errors import ConfigError


def state_of_this_process(name: str) -> RunState:
    me = psutil.Process()
    return RunState(name, me.pid, me.create_time(), gateways=["http://127.0.0.1:1"])


def dead_state(name: str) -> RunState:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    started = psutil.Process(process.pid).create_time()
    process.wait()
    return RunState(name, process.pid, started)


def test_state_comes_back_as_it_was_saved(tmp_path: Path):
    run, state = RunDir.create(tmp_path, "a"), state_of_this_process("a")
    run.save(state)
    assert run.load() == state


def test_passwords_are_readable_by_their_owner_alone(tmp_path: Path):
    run = RunDir.create(tmp_path, "a")
    run.save(state_of_this_process("a"))
    run.write_private("nats.conf", "password")
    assert stat.S_IMODE(os.stat(run.path).st_mode) == 0o700
    for name in ("state.json", "nats.conf"):
        assert stat.S_IMODE(os.stat(run.path / name).st_mode) == 0o600


def test_only_runs_that_live_are_offered(tmp_path: Path):
    RunDir.create(tmp_path, "alive").save(state_of_this_process("alive"))
    RunDir.create(tmp_path, "dead").save(dead_state("dead"))
    assert [run.name for run in rundir.live_runs(tmp_path)] == ["alive"]
    assert rundir.choose_run(tmp_path).name == "alive"


def test_a_reused_process_number_is_not_taken_for_the_run(tmp_path: Path):
    state = state_of_this_process("a")
    state.pid_started -= 3600
    assert not state.is_alive()


def test_two_runs_must_be_told_apart_by_name(tmp_path: Path):
    for name in ("a", "b"):
        RunDir.create(tmp_path, name).save(state_of_this_process(name))
    with pytest.raises(ConfigError, match="several are up"):
        rundir.choose_run(tmp_path)
    assert rundir.choose_run(tmp_path, "b").name == "b"
    with pytest.raises(ConfigError, match="no run 'c'"):
        rundir.choose_run(tmp_path, "c")


def test_stale_runs_lose_their_passwords_and_keep_their_logs(tmp_path: Path):
    run = RunDir.create(tmp_path, "dead")
    run.save(dead_state("dead"))
    run.write_private("redis.conf", "requirepass x")
    run.log("worker-1").write_text("why it died")
    rundir.remove_stale(tmp_path)
    assert [p.name for p in run.path.iterdir()] == ["logs"]
    assert run.log("worker-1").read_text() == "why it died"


def test_a_half_written_state_is_no_state(tmp_path: Path):
    run = RunDir.create(tmp_path, "a")
    (run.path / "state.json").write_text('{"name": "a"')
    assert run.load() is None


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="SHOAL_STATE_DIR"):
        RunDir.create(tmp_path / "file", "a")
