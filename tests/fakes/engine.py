"""An engine without a model, on the event loop's clock: an EngineClient for tests and simulations.

The next id is a function of (prompt and ids so far, seed), so a stream has one right continuation wherever it goes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from hashlib import blake2b

from services.common.blockhash import chain_root, hash_blocks
from services.common.messages import frames
from services.common.messages.request import GenerateRequest, SamplingParams
from services.worker.engine.client import OnDeath, OnOutput
from services.worker.engine.messages import EngineInfo, StepOutput


def next_id(ids: Iterable[int], seed: int, vocab_size: int) -> int:
    digest = blake2b(
        ",".join(map(str, ids)).encode(), key=seed.to_bytes(16, "little", signed=True), digest_size=8
    )
    return int.from_bytes(digest.digest(), "little") % vocab_size


def expected_output(
    prompt: list[int], seed: int, params: SamplingParams, *, vocab_size: int, eos_ids: Iterable[int] = ()
) -> list[int]:
    """The ids of an undisturbed run."""
    stop_ids = _stop_ids(params, eos_ids)
    ids: list[int] = []
    while _finish(ids, params, stop_ids) == frames.RUNNING:
        ids.append(next_id([*prompt, *ids], seed, vocab_size))
    return ids


def _stop_ids(params: SamplingParams, eos_ids: Iterable[int]) -> set[int]:
    return set(params.stop_token_ids) | (set() if params.ignore_eos else set(eos_ids))


def _finish(ids: list[int], params: SamplingParams, stop_ids: set[int]) -> int:
    if len(ids) > params.min_tokens and ids[-1] in stop_ids:
        return frames.STOP
    return frames.LENGTH if len(ids) >= params.max_tokens else frames.RUNNING


@dataclass(slots=True)
class _Stream:
    handle: int
    seed: int
    prompt: list[int]
    ids: list[int]
    params: SamplingParams
    names: list[bytes]  # of the prompt's blocks
    is_admitted: bool = False


class FakeEngine:
    """Every ``step_s`` seconds each stream in the batch gets one id; the first comes with its admission."""

    def __init__(
        self,
        *,
        step_s: float = 0.01,
        max_running: int = 8,
        num_blocks: int = 512,
        block_size: int = 16,
        vocab_size: int = 256,
        eos_ids: tuple[int, ...] = (),
        max_request_tokens: int = 4096,
        max_cached: int = 256,
    ) -> None:
        self.info = EngineInfo(
            num_blocks=num_blocks,
            block_size=block_size,
            max_running=max_running,
            max_request_tokens=max_request_tokens,
            vocab_size=vocab_size,
            eos_ids=list(eos_ids),
            architecture="Fake",
            device="cpu",
        )
        self.step_s, self.num_steps = step_s, 0
        self._max_cached = max_cached
        self._streams: OrderedDict[int, _Stream] = OrderedDict()
        self._cached: OrderedDict[bytes, None] = OrderedDict()
        self._has_work = asyncio.Event()
        self._on_output: OnOutput | None = None
        self._on_death: OnDeath | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def num_live(self) -> int:
        return len(self._streams)

    async def start(self, on_output: OnOutput, on_death: OnDeath) -> EngineInfo:
        self._on_output, self._on_death = on_output, on_death
        self._task = asyncio.create_task(self._run())
        return self.info

    def submit(self, handles: list[int], request: GenerateRequest) -> None:
        root = chain_root(adapter=request.adapter, cache_salt=request.cache_salt)
        names = hash_blocks(root, request.prompt_ids, self.info.block_size)
        for handle, choice in zip(handles, request.choices, strict=True):
            stream = _Stream(
                handle, choice.seed, request.prompt_ids, list(choice.output_ids), request.sampling, names
            )
            self._streams[handle] = stream
        self._has_work.set()

    def cancel(self, handles: list[int]) -> None:
        for handle in handles:
            self._streams.pop(handle, None)
        self._has_work.set()  # the next step tells what is free again

    async def stop(self) -> None:
        self.halt()

    def halt(self) -> None:
        """Stops at once, as when its process is killed together with the control process."""
        if self._task is not None:
            self._task.cancel()
        self._streams.clear()

    async def die(self, reason: str = "killed by the test", suspects: Collection[int] | None = ()) -> None:
        """As when the process of rank 0 ends by itself."""
        self.halt()
        assert self._on_death is not None
        await self._on_death(reason, suspects)

    async def _run(self) -> None:
        assert self._on_output is not None
        while True:
            if not self._streams:
                await self._has_work.wait()
            self._has_work.clear()
            await asyncio.sleep(self.step_s)
            await self._on_output(self._step())

    def _step(self) -> StepOutput:
        self.num_steps += 1
        output = StepOutput(step_s=self.step_s)
        stored: dict[bytes, None] = {}
        for stream in list(self._streams.values())[: self.info.max_running]:
            if not stream.is_admitted:
                self._admit(stream, output, stored)
            self._advance(stream, output)
        evicted = [self._cached.popitem(last=False)[0] for _ in range(len(self._cached) - self._max_cached)]
        output.stored = b"".join(name for name in stored if name in self._cached)
        output.removed = b"".join(name for name in evicted if name not in stored)
        output.running = min(len(self._streams), self.info.max_running)
        output.waiting = len(self._streams) - output.running
        held = sum(len(s.prompt) + len(s.ids) for s in self._streams.values() if s.is_admitted)
        output.free_blocks = max(0, self.info.num_blocks - held // self.info.block_size)
        return output

    def _admit(self, stream: _Stream, output: StepOutput, stored: dict[bytes, None]) -> None:
        stream.is_admitted = True
        num_found = 0
        for name in stream.names[: (len(stream.prompt) - 1) // self.info.block_size]:
            if name not in self._cached:
                break
            num_found += 1
        output.admitted[stream.handle] = num_found * self.info.block_size
        output.prefill_tokens += len(stream.prompt) - num_found * self.info.block_size
        for name in stream.names:
            if name not in self._cached:
                stored[name] = None
            self._cached[name] = None
            self._cached.move_to_end(name)

    def _advance(self, stream: _Stream, output: StepOutput) -> None:
        stop_ids = _stop_ids(stream.params, self.info.eos_ids)
        first, row = len(stream.ids), len(output.handles)
        finish = _finish(stream.ids, stream.params, stop_ids) if stream.ids else frames.RUNNING
        if finish == frames.RUNNING:
            stream.ids.append(next_id([*stream.prompt, *stream.ids], stream.seed, self.info.vocab_size))
            output.ids.append(stream.ids[-1])
            finish = _finish(stream.ids, stream.params, stop_ids)
        output.handles.append(stream.handle)
        output.first.append(first)
        output.counts.append(len(stream.ids) - first)
        if finish != frames.RUNNING:
            output.finish[row] = finish
            del self._streams[stream.handle]
