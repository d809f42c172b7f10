"""How loaded the worker is, and when that is worth an early heartbeat."""

from __future__ import annotations

from services.common.messages.events import WorkerLoad
from services.worker.engine.messages import EngineInfo, StepOutput

_SMOOTHING = 0.1  # weight of the newest step in tokens_per_s


class LoadTracker:
    def __init__(self) -> None:
        self.free_blocks = 0
        self._running = 0
        self._tokens_per_s = 0.0
        self._told: WorkerLoad | None = None
        self.num_accepted = 0  # requests since the start

    def on_output(self, output: StepOutput) -> None:
        self.free_blocks, self._running = output.free_blocks, output.running
        if output.step_s > 0:
            rate = len(output.ids) / output.step_s
            self._tokens_per_s += _SMOOTHING * (rate - self._tokens_per_s)

    def current(self, info: EngineInfo, *, live: int, prefill_tokens: int) -> WorkerLoad:
        """``live`` streams count from their acceptance, before the engine has told of them."""
        running = min(self._running, live)
        return WorkerLoad(
            running=running,
            waiting=live - running,
            max_running=info.max_running,
            waiting_prefill_tokens=prefill_tokens,
            free_blocks=self.free_blocks,
            total_blocks=info.num_blocks,
            block_size=info.block_size,
            max_request_tokens=info.max_request_tokens,
            tokens_per_s=self._tokens_per_s,
            num_accepted=self.num_accepted,
        )

    def on_told(self, load: WorkerLoad | None) -> None:
        self._told = load

    def is_news(self, load: WorkerLoad) -> bool:
        """Whether a router would place requests differently, knowing this."""
        told = self._told
        if told is None:
            return True
        step = max(1, load.max_running // 16)
        live, told_live = load.running + load.waiting, told.running + told.waiting
        if abs(live - told_live) >= step or (load.waiting == 0) != (told.waiting == 0):
            return True
        if 2 * load.waiting_prefill_tokens < told.waiting_prefill_tokens:
            return True  # routers hold prompts back while too many are waiting here
        return abs(load.free_blocks - told.free_blocks) * 16 >= load.total_blocks
