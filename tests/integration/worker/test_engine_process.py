"""The control process's hold on an engine process that misbehaves."""

from __future__ import annotations

import asyncio
import sys

import pytest

from services.common.errors import ConfigError
from services.worker.engine.client import EngineSettings, ProcessEngine
from services.worker.engine.messages import StepOutput
from services.worker.engine.requests import EngineConfig
from services.worker.runner.config import RunnerConfig

# Says that it is ready and then does as told.
SCRIPT = """
import os, socket, sys, time
from services.worker.engine.channel import Channel
from services.worker.engine.messages import EngineInfo, Failed, StepOutput
channel = Channel(socket.socket(fileno=int(sys.argv[2])))
(start,) = channel.poll(60)
if sys.argv[1] == "die":
    os._exit(7)
if sys.argv[1] == "refuse":
    channel.send(Failed("half a checkpoint", 2))
    os._exit(2)
channel.send(EngineInfo(1, 1, 1, 1, 1, []))
if sys.argv[1] == "speak":
    channel.send(StepOutput())
if sys.argv[1] in ("hang", "speak"):
    time.sleep(600)
channel.send(Failed("the device broke"))
if sys.argv[1] == "linger":
    time.sleep(600)
os._exit(1)
"""


def engine(how: str) -> ProcessEngine:
    settings = EngineSettings(RunnerConfig("/"), EngineConfig(), "w", watchdog_s=1.0)
    return ProcessEngine(settings, (sys.executable, "-c", SCRIPT, how))


async def reason_of_death(made: ProcessEngine) -> str:
    died: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def on_output(output: StepOutput) -> None:
        raise LookupError("a handler that fails")

    async def on_death(reason: str) -> None:
        died.set_result(reason)

    await made.start(on_output, on_death)
    reason = await asyncio.wait_for(died, 30.0)
    await made.stop()
    return reason


async def test_an_engine_that_hangs_is_killed_by_the_watchdog() -> None:
    reason = await reason_of_death(engine("hang"))
    assert reason.startswith("a step takes longer than --watchdog_timeout")


async def test_the_reason_that_an_engine_gives_is_passed_on() -> None:
    assert await reason_of_death(engine("fail")) == "the device broke"


async def test_an_engine_that_failed_is_not_waited_for() -> None:
    assert await reason_of_death(engine("linger")) == "the device broke"


async def test_an_output_that_cannot_be_taken_in_ends_the_engine() -> None:
    assert await reason_of_death(engine("speak")) == "an output was not handled: LookupError"


@pytest.mark.parametrize(
    ("how", "said"), [("refuse", "half a checkpoint"), ("die", "ended with exit code 7")]
)
async def test_an_engine_that_cannot_start_is_a_configuration_error(how: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        await reason_of_death(engine(how))
