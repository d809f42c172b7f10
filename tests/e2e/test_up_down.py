"""`up` from its start to its end: what it leaves, what it restarts, how it refuses."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.fakes.probe import get
from tests.fakes.stack import Stack
from tests.fakes.tiny_model import make_model
from tests.fakes.waiting import until


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny-checkpoint")
    make_model(path)
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Stack]:
    """A stack of this module's own, whose services it may kill."""
    with Stack(tmp_path_factory.mktemp("own"), tiny) as running:
        yield running


def ask(stack: Stack) -> str:
    body = {"model": stack.model, "prompt": "Hello", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
    response = httpx.post(stack.base_urls[0] + "/v1/completions", json=body, timeout=60, verify=False)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def serves(stack: Stack) -> bool:
    """Ready, and ready still: what was killed may be noticed a little after it was started again."""
    body = {"model": stack.model, "prompt": "Hi", "max_tokens": 1}
    try:
        return (
            httpx.post(
                stack.base_urls[0] + "/v1/completions", json=body, timeout=60, verify=False
            ).status_code
            == 200
        )
    except httpx.HTTPError:
        return False


def is_ready(stack: Stack) -> bool:
    return get(stack.base_urls[0] + "/ready")[0] == 200


@pytest.mark.parametrize(
    "victim", ["gateway-1", "router-1", "worker-1", "detokenizer-1", "kvstore-1", "redis", "nats"]
)
async def test_whatever_is_killed_is_started_again_and_serves(own: Stack, victim: str):
    before, pid = ask(own), own.pid(victim)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not psutil.pid_exists(pid), "its end")

    def is_back() -> bool:
        try:
            return own.pid(victim) != pid
        except (AssertionError, psutil.Error):
            return False

    await until(is_back, f"{victim} to be started again", 30)
    await until(lambda: is_ready(own) and serves(own), "the gateway to serve", 60)
    assert ask(own) == before
    await until(lambda: f"{victim} was killed by SIGKILL; starting it again" in own.output(), "the note")


def ports_of(stack: Stack) -> set[int]:
    processes = [psutil.Process(stack.up_pid), *stack.processes()]
    return {
        connection.laddr.port
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


def test_down_leaves_no_process_socket_or_file_behind(tmp_path: Path, tiny: Path):
    shared = shared_memory()
    with Stack(tmp_path, tiny) as stack:
        pids, ports = [p.pid for p in stack.processes()], ports_of(stack)
        assert len(pids) >= 7
        assert len(ports) >= 7
        ask(stack)
        done = stack.cli("down")
        assert done.returncode == 0, done.stderr
        assert stack.process
        assert stack.process.wait(10) == 0
    assert "nothing is left behind" in stack.output()
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert [port for port in ports if listening(port)] == []
    assert list(stack.state_root.iterdir()) == []
    assert shared_memory() - shared == set()


async def test_two_run_side_by_side_and_a_detached_one_is_found_by_name(
    tmp_path: Path, tiny: Path, own: Stack
):
    stack = Stack(tmp_path, tiny)
    done = stack.cli("up", "--detach", "--port", "0", "--model_dir", str(tiny), timeout_s=120)
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        stack.state = stack._read_state()
        assert stack.base_urls != own.base_urls
        assert ask(stack) == ask(own)
    finally:
        down = stack.cli("down", "--run", stack.state.get("name", ""))
    assert down.returncode == 0, down.stderr
    assert list(stack.state_root.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (lambda path: (path / "model.safetensors").unlink(), "safetensors"),
        (lambda path: os.truncate(path / "model.safetensors", 2000), "safetensors"),
        (lambda path: (path / "tokenizer.json").unlink(), "tokenizer"),
        (lambda path: (path / "config.json").write_text('{"architectures": ["Strange"]}'), "Strange"),
    ],
    ids=["no weights", "half a checkpoint", "no tokenizer", "unknown architecture"],
)
def test_a_damaged_model_is_one_clear_line_and_exit_code_2(tmp_path: Path, tiny: Path, damage, names: str):
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    damage(model)
    stack = Stack(tmp_path, model)
    done = stack.cli("up", "--port", "0", "--model_dir", str(model), timeout_s=120)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert names in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


async def test_when_up_is_killed_nothing_lives_on(own: Stack):
    """The last of these tests, since it is the end of their stack."""
    processes = own.processes()
    assert len(processes) >= 7
    own.kill()
    await until(lambda: not [p for p in processes if p.is_running()], "all children to end")
    assert own.cli("status").returncode == 2
    assert own.cli("down").returncode == 2
    assert [path.name for path in own.state_root.glob("run-*/*")] == ["logs"]
