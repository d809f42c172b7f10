"""The real engine loop over a runner in this process, driven to the end of a list of requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.common.messages.frames import PromptLogprobs
from services.common.messages.request import GenerateRequest
from services.worker.cache import PrefixCache
from services.worker.engine.engine import Engine, engine_info, scheduler_limits
from services.worker.engine.messages import CancelStreams, OnTrial, Shutdown, StepOutput, Submit
from services.worker.engine.requests import EngineConfig, SequenceFactory
from services.worker.runner.interface import Runner
from services.worker.scheduler import Scheduler


@dataclass
class LocalChannel:
    """Stands where the socket to the control process is: hands out ``script(step)`` and keeps what is sent."""

    script: Callable[[int], list[Any]]
    wanted: int  # streams that must end
    outputs: list[StepOutput] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)
    num_polls: int = 0

    def poll(self, timeout_s: float) -> list[Any]:
        if sum(len(output.finish) for output in self.outputs) >= self.wanted:
            return [Shutdown()]
        self.num_polls += 1
        assert self.num_polls < 20_000, "the engine makes no progress"
        return self.script(self.num_polls - 1)

    def send(self, message: Any) -> None:
        if isinstance(message, StepOutput):
            self.outputs.append(message)
        elif isinstance(message, OnTrial):
            self.tried.append(message.handle)


@dataclass
class Run:
    ids: dict[str, list[int]]  # by stream, earlier attempts' ids not included
    cached: dict[str, int]
    finish: dict[str, int]
    logprobs: dict[str, list[float]]
    num_preempted: int
    num_prefilled: int
    prompt: dict[str, list[PromptLogprobs]] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)  # streams as OnTrial named them; "" for none


class LocalEngine:
    """Keeps its prefix cache from one run to the next, as a worker does."""

    def __init__(
        self, runner: Runner, config: EngineConfig | None = None, *, depth: int = 1, num_blocks: int = 0
    ) -> None:
        config = config or EngineConfig()
        self._runner, self._depth = runner, depth
        self.cache = PrefixCache(num_blocks or runner.info.num_blocks, runner.info.block_size)
        self._scheduler = Scheduler(scheduler_limits(runner.info, config), self.cache)
        eos_ids = engine_info(runner.info, config).eos_ids
        self._factory = SequenceFactory(runner.info.block_size, eos_ids, share_prefixes=config.share_prefixes)
        self._next_handle = 1  # 0 is no stream's
        self.suspects: list[str] = []  # streams that ran when run() raised

    def run(
        self,
        requests: Sequence[GenerateRequest],
        *,
        join_every: int = 0,
        cancel_at: dict[int, list[str]] | None = None,
    ) -> Run:
        """Request i joins at step i * join_every; ``cancel_at`` names streams to cancel before a step."""
        names: dict[int, str] = {}
        arrivals: dict[int, list[Any]] = {}
        for i, request in enumerate(requests):
            handles = [self._next_handle + k for k in range(len(request.choices))]
            self._next_handle += len(handles)
            for handle, choice in zip(handles, request.choices, strict=True):
                names[handle] = f"{request.request_id}:{choice.index}"
            arrivals.setdefault(i * join_every, []).append(Submit(handles, request))
        handle_of = {name: handle for handle, name in names.items()}
        cancelled = {name for group in (cancel_at or {}).values() for name in group}
        for step, streams in (cancel_at or {}).items():
            arrivals.setdefault(step, []).append(CancelStreams([handle_of[s] for s in streams]))
        channel = LocalChannel(lambda step: arrivals.get(step, []), len(names) - len(cancelled))
        clock = iter(range(1_000_000))
        engine = Engine(
            self._scheduler,
            self._runner,
            self._factory,
            channel,  # type: ignore[arg-type]
            depth=self._depth,
            clock=lambda: float(next(clock)),
        )
        try:
            engine.run()
        except RuntimeError:
            self.suspects = [names[handle] for handle in engine.to_blame()]
            raise
        self._drain(engine)
        run = _gather(channel.outputs, names)
        run.tried = [names.get(handle, "") for handle in channel.tried]
        return run

    def _drain(self, engine: Engine) -> None:
        """Reads the steps that are still under way, so that every block is back."""
        while self._scheduler.has_work:
            engine.turn()
        self._scheduler.check()
        assert self.cache.pool.num_free == self.cache.pool.num_usable, "blocks are lost"


def _gather(outputs: list[StepOutput], names: dict[int, str]) -> Run:
    run = Run({name: [] for name in names.values()}, {}, {}, {}, 0, 0)
    for output in outputs:
        run.num_preempted += len(output.preempted)
        run.num_prefilled += output.prefill_tokens
        run.cached |= {names[handle]: cached for handle, cached in output.admitted.items()}
        for handle, part in output.prompt_logprobs.items():
            run.prompt.setdefault(names[handle], []).append(part)
        at = 0
        for row, (handle, count) in enumerate(zip(output.handles, output.counts, strict=True)):
            name = names[handle]
            run.ids[name] += output.ids[at : at + count]
            at += count
            if row in output.finish:
                run.finish[name] = output.finish[row]
            if row in output.logprobs:
                run.logprobs.setdefault(name, []).extend(output.logprobs[row].values)
    return run
