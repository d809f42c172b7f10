"""The control process's hold on an engine process that misbehaves."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from services.common.bus.memory import MemoryBroker, MemoryBus
from services.common.errors import ConfigError
from services.worker.engine import client
from services.worker.engine.client import EngineSettings, ProcessEngine
from services.worker.engine.messages import StepOutput
from services.worker.engine.requests import EngineConfig
from services.worker.processes import has_ended, process_tree
from services.worker.runner.config import RunnerConfig
from tests.fakes.tiny_model import make_model
from tests.fakes.waiting import until
from tests.integration.worker.peer import WorkerUnderTest

# Says that it is ready and then does as told.
SCRIPT = """
import os, resource, signal, socket, subprocess, sys, time
from services.worker.engine.channel import Channel
from services.worker.engine.messages import EngineInfo, Failed, OnTrial, StepOutput
from services.worker.runner.reports import Report, Reports
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
channel = Channel(socket.socket(fileno=int(sys.argv[2])))
(start,) = channel.poll(60)
if sys.argv[1] == "die":
    os._exit(7)
if sys.argv[1] == "refuse":
    channel.send(Failed("half a checkpoint", 2))
    os._exit(2)
channel.send(EngineInfo(1, 1, 1, 1, 1, []))
if sys.argv[1].startswith("trial"):
    channel.send(OnTrial(7))
if sys.argv[1].endswith("crash"):
    os.kill(os.getpid(), signal.SIGSEGV)
if sys.argv[1].endswith("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1].endswith("stopped"):
    os.kill(os.getpid(), signal.SIGSTOP)
if sys.argv[1].endswith("lost rank"):
    rank_1 = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Reports(socket.socket(fileno=int(sys.argv[3]))).send(Report(1, pid=rank_1.pid))
    rank_1.kill()
    time.sleep(1.2 if sys.argv[1] == "late lost rank" else 600)
if sys.argv[1] == "speak":
    channel.send(StepOutput())
if sys.argv[1] in ("hang", "trial hang", "speak"):
    time.sleep(600)
channel.send(Failed("the device broke", suspects=[3, 5]))
if sys.argv[1] == "linger":
    time.sleep(600)
os._exit(1)
"""


def engine(how: str) -> ProcessEngine:
    watchdog_s = 1.0 if how.endswith("hang") else 60.0  # others may be slow to do what they do
    settings = EngineSettings(RunnerConfig("/"), EngineConfig(), "w", watchdog_s=watchdog_s)
    return ProcessEngine(settings, (sys.executable, "-c", SCRIPT, how))


async def death_of(made: ProcessEngine) -> tuple[str, Collection[int] | None]:
    """(reason, suspects)"""
    died: asyncio.Future[tuple[str, Collection[int] | None]] = asyncio.get_running_loop().create_future()

    async def on_output(output: StepOutput) -> None:
        raise LookupError("a handler that fails")

    async def on_death(reason: str, suspects: Collection[int] | None) -> None:
        died.set_result((reason, suspects))

    await made.start(on_output, on_death)
    death = await asyncio.wait_for(died, 30.0)
    await made.stop()
    return death


@pytest.mark.parametrize(
    ("how", "reason", "suspects"),
    [
        ("hang", "a step takes longer than --watchdog_timeout", None),
        ("fail", "the device broke", [3, 5]),
        ("linger", "the device broke", [3, 5]),
        ("speak", "an output was not handled: LookupError", None),
        ("crash", "rank 0 was killed by signal 11", None),
        ("trial crash", "rank 0 was killed by signal 11", (7,)),
        ("trial hang", "a step takes longer than --watchdog_timeout", (7,)),
        ("killed", "rank 0 was killed by signal 9", ()),
        ("trial killed", "rank 0 was killed by signal 9", ()),
        ("stopped", "a process of the engine was stopped by a signal", ()),
    ],
)
async def test_the_death_of_an_engine_is_told_with_its_reason_and_with_whom_to_suspect(
    how: str, reason: str, suspects: Collection[int] | None
) -> None:
    said, found = await death_of(engine(how))
    assert said.startswith(reason)
    assert found == suspects


@pytest.mark.parametrize(
    ("how", "reason"),
    [("lost rank", "rank 1 was killed by signal 9"), ("late lost rank", "the device broke")],
)
async def test_nobody_is_suspected_when_a_rank_was_killed_whatever_rank_0_makes_of_it(
    how: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (
        how == "late lost rank"
    ):  # the watch sees it at once, and leaves the word to rank 0 for as long as that takes
        monkeypatch.setattr(client, "LOOKS_AT_LOST", 1000)
    assert await death_of(engine(how)) == (reason, ())


@pytest.mark.parametrize(
    ("how", "said"), [("refuse", "half a checkpoint"), ("die", "ended with exit code 7")]
)
async def test_an_engine_that_cannot_start_is_a_configuration_error(how: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        await death_of(engine(how))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), "qwen3")


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("load-blocked", "rank 1 failed: the shard is cut short"),
        ("sizing", "rank 1 failed: no room for KV"),
        ("sizing-blocked", "rank 1 failed: no room for KV"),
        ("capture", "rank 1 failed: RuntimeError: the capture broke"),
        ("capture-blocked", "rank 1 failed: RuntimeError: the capture broke"),
        ("kill", "rank 1 was killed by signal 9"),
        ("kill-blocked", "rank 1 was killed by signal 9"),
    ],
)
async def test_a_rank_that_fails_while_it_starts_ends_the_start_with_its_reason(
    model_dir: Path, case: str, said: str
) -> None:
    runner = RunnerConfig(str(model_dir), device="cpu", tp=2, max_total_token_num=512, cpu_threads=1)
    rank_0 = (sys.executable, "-m", "tests.integration.worker.failing_start", case, "rank_0")
    engine = ProcessEngine(EngineSettings(runner, EngineConfig(), "w"), rank_0)
    worker = WorkerUnderTest(MemoryBus(MemoryBroker(), "w"), engine)
    starting = asyncio.ensure_future(worker.runtime.start())
    tree: set[int] = set()
    while not starting.done():
        tree |= {*process_tree(os.getpid())[1:]}
        assert worker.runtime.not_ready() == "starting"
        await asyncio.sleep(0.05)
    with pytest.raises(ConfigError, match=said):
        await starting
    assert worker.runtime.not_ready() == "starting"
    assert len(tree) == 2
    await until(lambda: all(map(has_ended, tree)), "both ranks to be gone", 30)
    await worker.runtime.stop()
