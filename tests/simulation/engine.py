"""The real engine and scheduler over a fake model, one step at a time on the virtual clock."""

from __future__ import annotations

import asyncio
from typing import Any

from services.common.messages.request import GenerateRequest
from services.worker.cache import PrefixCache
from services.worker.engine.client import OnDeath, OnOutput
from services.worker.engine.engine import Engine, engine_info, scheduler_limits
from services.worker.engine.messages import CancelStreams, EngineInfo, StepOutput, Submit
from services.worker.engine.requests import EngineConfig, SequenceFactory
from services.worker.scheduler import Scheduler
from tests.fakes.runner import FakeRunner
from tests.simulation.language import VOCAB_SIZE

BLOCK_SIZE = 4


class _Outbox:
    """The engine's end of its channel: what it says is kept until the step is over."""

    def __init__(self) -> None:
        self.outputs: list[StepOutput] = []

    def send(self, message: Any) -> None:
        self.outputs.append(message)


class VirtualEngine:
    """An EngineClient. Commands reach the engine between steps; a step takes ``step_s``."""

    def __init__(self, num_blocks: int, step_s: float, *, depth: int) -> None:
        config = EngineConfig(max_running=4, max_step_tokens=24, max_chunk_tokens=10, conservativeness=0.0)
        runner = FakeRunner(
            num_blocks=num_blocks + 1,
            block_size=BLOCK_SIZE,
            max_slots=4,
            max_step_tokens=24,
            vocab_size=VOCAB_SIZE,
        )
        self._info = engine_info(runner.info, config)
        self.scheduler = Scheduler(
            scheduler_limits(runner.info, config), PrefixCache(num_blocks + 1, BLOCK_SIZE)
        )
        self._outbox = _Outbox()
        factory = SequenceFactory(BLOCK_SIZE, (), share_prefixes=True)
        loop = asyncio.get_running_loop()
        self._engine = Engine(
            self.scheduler,
            runner,
            factory,
            self._outbox,  # type: ignore[arg-type]
            depth=depth,
            clock=loop.time,
        )
        self._step_s = step_s
        self.num_preempted = 0
        self._commands: asyncio.Queue[Submit | CancelStreams] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._on_output: OnOutput | None = None
        self._on_death: OnDeath | None = None

    async def start(self, on_output: OnOutput, on_death: OnDeath) -> EngineInfo:
        self._on_output, self._on_death = on_output, on_death
        self._task = asyncio.create_task(self._run())
        return self._info

    def submit(self, handles: list[int], request: GenerateRequest) -> None:
        self._commands.put_nowait(Submit(handles, request))

    def cancel(self, handles: list[int]) -> None:
        self._commands.put_nowait(CancelStreams(handles))

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()

    async def die(self) -> None:
        """As if rank 0 were killed."""
        if self._task and not self._task.done():
            self._task.cancel()
            assert self._on_death is not None
            await self._on_death("rank 0 was killed by signal 9", ())

    async def _run(self) -> None:
        assert self._on_output is not None
        while True:
            if not self.scheduler.has_work:
                self._engine._obey(await self._commands.get())
            while not self._commands.empty():
                self._engine._obey(self._commands.get_nowait())
            if self.scheduler.has_work:
                await asyncio.sleep(self._step_s)
                self._engine.turn()
            self.scheduler.check()
            outputs, self._outbox.outputs = self._outbox.outputs, []
            for output in outputs:
                self.num_preempted += len(output.preempted)
                await self._on_output(output)
