"""`python -m services.worker` as its own process, with real ranks, over a real NATS."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from services.common.lifecycle import Timing
from services.common.messages.events import READY
from services.worker.engine.client import EngineSettings, ProcessEngine
from services.worker.engine.requests import EngineConfig
from services.worker.processes import is_stopped, process_tree
from services.worker.runner.config import RunnerConfig
from tests.conftest import ConnectBus
from tests.fakes.servers import NatsServer
from tests.fakes.tiny_model import make_model
from tests.fakes.waiting import until
from tests.integration.worker.peer import Peer, WorkerUnderTest, generate

START_SECONDS = 90.0  # importing torch takes its time on a busy machine
Spawn = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "qwen3")


@pytest.fixture
async def spawn(nats_server: NatsServer) -> AsyncIterator[Spawn]:
    processes: list[asyncio.subprocess.Process] = []
    settings = nats_server.settings
    env = os.environ | {
        "SHOAL_NATS_URL": settings.url,
        "SHOAL_NATS_USER": settings.user,
        "SHOAL_NATS_PASSWORD": settings.password,
        "SHOAL_NAMESPACE": "test",
        "SHOAL_INSTANCE_ID": "w1",
        "SHOAL_HEARTBEAT_INTERVAL": "0.1",
        "SHOAL_LEASE": "30",  # nobody beats as the gateway here
        "SHOAL_THREADS": "1",
        "SHOAL_DRAIN_TIMEOUT": "120",
    }

    async def run(*flags: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.worker", *flags, env=env, stderr=asyncio.subprocess.PIPE
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ready(peer: Peer) -> None:
    await until(lambda: peer.beats and peer.beats[-1].state == READY, "the worker to be ready", START_SECONDS)


@pytest.fixture
async def peer(connect_bus: ConnectBus) -> Peer:
    made = Peer(await connect_bus("peer"))
    await made.start()
    return made


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model_dir", "/nowhere/at/all"], "there is no such directory"),
        (["--max_req_total_len", "99999"], "--max_req_total_len 99999 is more than"),
        (["--eos_id", "end"], "--eos_id takes token ids"),
    ],
)
async def test_what_cannot_be_served_is_one_line_and_exit_code_2(
    spawn: Spawn, model_dir: Path, flags: list[str], said: str
) -> None:
    process = await spawn("--model_dir", str(model_dir), *flags)
    _, stderr = await process.communicate()
    assert process.returncode == 2
    lines = stderr.decode().strip().splitlines()
    assert len(lines) == 1, lines
    assert said in lines[0]


def _copy_cut_short(model_dir: Path, to: Path) -> None:
    for file in model_dir.iterdir():
        content = file.read_bytes()
        (to / file.name).write_bytes(content[:1000] if file.suffix == ".safetensors" else content)


async def test_half_a_checkpoint_is_one_line_and_exit_code_2(
    spawn: Spawn, model_dir: Path, tmp_path: Path
) -> None:
    _copy_cut_short(model_dir, tmp_path)
    process = await spawn("--model_dir", str(tmp_path))
    _, stderr = await process.communicate()
    assert process.returncode == 2
    assert len(stderr.decode().strip().splitlines()) == 1
    assert b"model.safetensors" in stderr


async def test_it_serves_drains_on_sigterm_and_leaves_no_process(
    spawn: Spawn, peer: Peer, model_dir: Path
) -> None:
    process = await spawn("--model_dir", str(model_dir), "--max_total_token_num", "4096")
    await ready(peer)
    assert (await peer.submit(generate(max_tokens=30, temperature=0.0, ignore_eos=True))).accepted
    await until(lambda: peer.finish, "the stream", 30)
    assert len(peer.ids["r:0"]) == 30
    assert (await peer.submit(generate("s", max_tokens=60, temperature=0.0, ignore_eos=True))).accepted
    tree = process_tree(process.pid)
    assert len(tree) == 2
    process.terminate()
    await until(lambda: "s:0" in peer.finish, "the running request to finish", 60)
    assert await process.wait() == 0
    await until(lambda: not any(map(_is_alive, tree)), "the ranks to be gone")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_rank_that_dies_or_stops_gives_back_its_requests_and_ends_the_worker(
    spawn: Spawn, peer: Peer, model_dir: Path, number: signal.Signals
) -> None:
    flags = ["--model_dir", str(model_dir), "--max_total_token_num", "4096", "--tp", "2"]
    process = await spawn(*flags)
    await ready(peer)
    request = generate(max_tokens=2000, temperature=0.0, ignore_eos=True)
    assert (await peer.submit(request)).accepted
    await until(lambda: peer.ids.get("r:0"), "the first ids", 30)
    tree = process_tree(process.pid)
    assert len(tree) == 3
    os.kill(tree[2], number)
    await until(lambda: peer.bounced, "the request to be given back", 30)
    assert peer.bounced[0].request_ids == ["r"]
    assert await process.wait() == 1
    await until(lambda: not any(map(_is_alive, tree)), "all ranks to be gone", 30)


async def test_a_killed_control_process_takes_its_ranks_with_it(
    spawn: Spawn, peer: Peer, model_dir: Path
) -> None:
    process = await spawn("--model_dir", str(model_dir), "--max_total_token_num", "4096", "--tp", "2")
    await ready(peer)
    tree = process_tree(process.pid)
    process.kill()
    await process.wait()
    await until(lambda: not any(map(_is_alive, tree)), "all ranks to be gone", 30)


async def test_two_ranks_give_the_same_ids_as_one(connect_bus: ConnectBus, model_dir: Path) -> None:
    found: list[dict[str, list[int]]] = []
    for tp in (1, 2):
        runner = RunnerConfig(str(model_dir), device="cpu", tp=tp, max_total_token_num=4096, cpu_threads=1)
        engine = ProcessEngine(EngineSettings(runner, EngineConfig(max_chunk_tokens=7), f"w{tp}"))
        worker = WorkerUnderTest(
            await connect_bus(f"w{tp}"), engine, worker_id=f"w{tp}", timing=Timing(lease_s=60.0)
        )
        peer = Peer(await connect_bus(f"peer{tp}"), f"w{tp}")
        await peer.start()
        await worker.runtime.start()
        for i in range(8):
            temperature = 0.0 if i % 2 else 0.8
            request = generate(
                f"r{i}",
                list(range(3 + i, 20 + 3 * i)),
                seeds=(i, i + 50),
                max_tokens=10 + i,
                temperature=temperature,
                ignore_eos=True,
            )
            assert (await peer.submit(request)).accepted
        await until(lambda: len(peer.finish) == 16, "all streams", 60)  # noqa: B023
        await worker.runtime.stop()
        found.append(peer.ids)
    assert found[0] == found[1]


def _is_alive(pid: int) -> bool:
    """Whether a process lives; one that waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_a_stopped_process_is_seen_as_stopped() -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"], os.environ)
    try:
        assert not is_stopped(pid)
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        assert is_stopped(pid)
        assert pid in process_tree(os.getpid())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
