"""What a decode step costs the host, part by part: ``python -m bench.host_step [--batches 1 32 256] [--json FILE]``.

The real engine turns over a real scheduler and runner, with one step under way while the next is planned; the model does
no arithmetic. On a GPU the step is captured and replayed, so that launch includes what CUDA costs the host; on cpu a graph
is stood in for by the tensors that it would leave. One row in sixteen gets a new block each step. Microseconds:

    schedule     Scheduler.schedule
    launch       Runner.launch: placing, staging, replaying, copying the ids back
    read         StepHandle.result; on a GPU with the wait for the device
    collect      Scheduler.collect
    output       what the engine makes of it for the control process
    send         packing it and writing it to the socket
    rank 0       the whole turn, measured without the parts' clocks: what must be shorter than a step of the device
    control      the other process: from those bytes to the frames' bytes (beside the device, on another core)

With ``--inside`` instead: where launch spends its time (bench/host_launch.py).
"""

from __future__ import annotations

import argparse
import platform
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bench.conditions import conditions, write
from bench.host_control import ControlSide, generate_request
from kernels.sampling import SampleOutput
from services.worker.cache import PrefixCache
from services.worker.engine.channel import Channel
from services.worker.engine.engine import Engine, engine_info, scheduler_limits
from services.worker.engine.messages import Submit
from services.worker.engine.requests import EngineConfig, SequenceFactory
from services.worker.layers.attention import KVPool, StepMeta
from services.worker.layers.rope import RopeConfig
from services.worker.runner.dynamic_rope import RopeRows
from services.worker.runner.interface import RunnerInfo
from services.worker.runner.model_runner import ModelRunner
from services.worker.scheduler import Scheduler

BLOCK_SIZE, MAX_MODEL_LEN, VOCAB_SIZE = 16, 4096, 64
PARTS = ("schedule", "launch", "read", "collect", "output", "send", "rank 0", "control")
Timed = Callable[..., Any]


class NoModel:
    """Returns the same hidden states and logits whatever it is asked."""

    config = SimpleNamespace(vocab_size=VOCAB_SIZE)

    def __init__(self, rows: int, device: torch.device) -> None:
        self._logits = torch.randn(rows + 1, VOCAB_SIZE, device=device)

    def forward(self, ids: Tensor, positions: Tensor, kv: KVPool, meta: StepMeta) -> Tensor:
        return ids if meta.sampled is None else meta.sampled.tokens

    def logits(self, hidden: Tensor) -> Tensor:
        return self._logits[: len(hidden)]


class NoGraphs:
    """Stands where StepGraphs do: a replay costs nothing, and its results are always the same."""

    def __init__(self, rows: int) -> None:
        self.sizes = [rows]
        self._ids = torch.arange(rows) % (VOCAB_SIZE - 1)

    def forward(self, size: int) -> Tensor:
        return self._ids

    def finish(self, size: int, features: int) -> SampleOutput:
        return SampleOutput(self._ids)


def new_runner(rows: int, device: torch.device) -> ModelRunner:
    blocks = rows * (MAX_MODEL_LEN // BLOCK_SIZE) + 1
    kv = KVPool(1, blocks, BLOCK_SIZE, 1, 8, torch.float32, device)
    rope = RopeRows(
        RopeConfig(type="default", theta=10000.0, dim=8, max_position=MAX_MODEL_LEN),
        MAX_MODEL_LEN, 8192, rows, device,
    )  # fmt: skip
    model: Any = NoModel(8192, device)
    runner = ModelRunner(model, kv, rope, None, rows, MAX_MODEL_LEN, 8192)
    if device.type == "cuda":
        runner.capture_graphs([rows], [])
    else:
        runner._decode_graphs = NoGraphs(rows)  # type: ignore[assignment]
    return runner


class Stopwatch:
    """Seconds by part, of the calls since the last ``take``."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    def timed(self, part: str, call: Timed) -> Timed:
        clock, seconds = time.perf_counter, self._seconds

        def run(*arguments: Any, **named: Any) -> Any:
            began = clock()
            try:
                return call(*arguments, **named)
            finally:
                seconds[part] += clock() - began

        return run

    def take(self) -> dict[str, float]:
        taken = dict(self._seconds)
        self._seconds.clear()
        return taken


class TimedRunner:
    """Times launches, and the reading of their handles' results."""

    def __init__(self, runner: ModelRunner, watch: Stopwatch) -> None:
        self._launch, self._watch = watch.timed("launch", runner.launch), watch

    def launch(self, plan: Any) -> Any:
        handle = self._launch(plan)
        return SimpleNamespace(ready=handle.ready, result=self._watch.timed("read", handle.result))


def runner_info(rows: int, device: torch.device) -> RunnerInfo:
    return RunnerInfo(
        num_blocks=rows * (MAX_MODEL_LEN // BLOCK_SIZE) + 1,
        block_size=BLOCK_SIZE,
        max_slots=rows,
        max_model_len=MAX_MODEL_LEN,
        max_step_tokens=8192,
        vocab_size=VOCAB_SIZE,
        eos_ids=(),
        architecture="None",
        dtype="float32",
        device=str(device),
        num_params=0,
    )


class Bench:
    """An engine with ``rows`` sequences that decode, and the control process's side of it."""

    def __init__(self, rows: int, device: torch.device, *, is_timed: bool) -> None:
        self.watch = Stopwatch()
        info, config = runner_info(rows, device), EngineConfig(max_running=rows)
        scheduler = Scheduler(scheduler_limits(info, config), PrefixCache(info.num_blocks, info.block_size))
        ours, theirs = socket.socketpair()
        with theirs:  # read by another process, as it will be
            self._reader = subprocess.Popen(["cat"], stdin=theirs, stdout=subprocess.DEVNULL)
        channel = Channel(ours)
        self.sent: list[Any] = []
        runner: Any = new_runner(rows, device)
        if is_timed:
            runner = TimedRunner(runner, self.watch)
        factory = SequenceFactory(BLOCK_SIZE, (), share_prefixes=True)
        self.engine = Engine(scheduler, runner, factory, channel, depth=1, clock=time.perf_counter)
        self.control = ControlSide(engine_info(info, config))
        for row in range(rows):
            # Prompts of all lengths modulo a block: one row in sixteen begins a block in each step.
            request = generate_request(row, prompt_length=row % BLOCK_SIZE + 1, max_tokens=MAX_MODEL_LEN - 20)
            self.engine._submit(Submit(self.control.admit(request), request))
        if is_timed:
            self._instrument(scheduler, channel)

    def _instrument(self, scheduler: Any, channel: Any) -> None:
        timed, engine = self.watch.timed, self.engine
        # Of classes with slots or without, the bench's own instances: nothing outside it is changed.
        engine._scheduler = _Proxy(
            scheduler,
            schedule=timed("schedule", scheduler.schedule),
            collect=timed("collect", scheduler.collect),
        )  # type: ignore[assignment]
        engine._output = timed("output", engine._output)  # type: ignore[method-assign]
        engine._channel = _Proxy(channel, send=timed("send", partial(self._send, channel)))  # type: ignore[assignment]

    def _send(self, channel: Channel, message: Any) -> None:
        self.sent.append(message)
        channel.send(message)

    @torch.inference_mode()  # as the engine's process
    def run(self, steps: int) -> list[dict[str, float]]:
        for _ in range(50):
            self.step()
        return [self.step() for _ in range(steps)]

    def close(self) -> None:
        self.engine._channel.close()
        self._reader.wait()

    def step(self) -> dict[str, float]:
        """One turn; seconds by part."""
        began = time.perf_counter()
        self.engine._channel.poll(0.0)
        self.engine.turn()
        turn = time.perf_counter() - began
        parts = self.watch.take() | {"rank 0": turn}
        for message in self.sent:
            parts["control"] = self.control.handle(message)
        self.sent.clear()
        return parts


class _Proxy:
    """An object with some of its methods replaced."""

    def __init__(self, wrapped: Any, **methods: Timed) -> None:
        self._wrapped = wrapped
        self.__dict__ |= methods

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


def measure(rows: int, steps: int, device: torch.device, quantile: float) -> dict[str, float]:
    """Microseconds by part, in steady decode. The whole turn is measured by itself, without the parts' clocks."""
    bench = Bench(rows, device, is_timed=True)
    samples = bench.run(steps)
    bench.close()
    whole = Bench(rows, device, is_timed=False)
    turns = whole.run(steps)
    whole.close()
    found = {part: [sample.get(part, 0.0) for sample in samples] for part in PARTS}
    found["rank 0"] = [turn["rank 0"] for turn in turns]
    return {part: sorted(values)[int(quantile * len(values))] * 1e6 for part, values in found.items()}


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument(
        "--quantile", type=float, default=0.5, help="0.1 on a machine that does other work too"
    )
    parser.add_argument("--inside", action="store_true", help="the parts of launch instead")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def main() -> None:
    arguments = parse(sys.argv[1:])
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = (
        torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    )
    print(
        f"{name}, Python {platform.python_version()}, torch {torch.__version__}; us, quantile {arguments.quantile}"
    )
    head = conditions("python -m bench.host_step") | {"device": name, "quantile": arguments.quantile}
    if arguments.inside:
        from bench import host_launch  # it imports this module

        inside = host_launch.report(arguments.batches, arguments.steps, device, arguments.quantile)
        if arguments.json:
            write(arguments.json, head | inside)
        return
    print("batch  " + "".join(f"{part:>10}" for part in PARTS))
    found = {}
    for rows in arguments.batches:
        found[rows] = measure(rows, arguments.steps, device, arguments.quantile)
        print(f"{rows:5}  " + "".join(f"{found[rows][part]:10.1f}" for part in PARTS), flush=True)
        if arguments.json:
            write(arguments.json, head | {"us": found})


if __name__ == "__main__":
    main()
