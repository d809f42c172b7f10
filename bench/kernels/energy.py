"""What the parts of a full step cost in energy: ``python -m bench.kernels.energy [--json F]``.

A step of 248 decodes and 1,800 prompt tokens of the 8B shape runs at the GPU's power limit, where time is energy over
power: a part that takes less energy lets the others run at a higher clock. Each part runs alone for a second, twice and in
turns, read by NVML's energy counter; also over zeros and over uniform values, for the bits that change cost energy too.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bench.conditions import conditions, write
from bench.kernels import attention
from bench.kernels.library import sustained_us
from kernels.activation import silu_and_mul
from kernels.norm import rms_norm

TOKENS, HIDDEN, PAIRS = 2048, 4096, 14336
DECODES, CONTEXT = 248, 1100
CHUNKS = [(1024, 1024), (776, 776)]
WARM_S, MEASURED_S, ROUNDS = 0.4, 1.0, 2
GIB = 1 << 30


@dataclass(frozen=True)
class Part:
    """`body` once; its operations and the bytes that it moves to or from memory."""

    name: str
    body: Callable[[], object]
    operations: float
    bytes: float


class Counter:
    """NVML's count of the energy of device 0."""

    def __init__(self) -> None:
        self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self._device = ctypes.c_void_p()
        self._nvml.nvmlInit_v2()
        name = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        if status := self._nvml.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(self._device)):
            raise RuntimeError(f"NVML does not know {name}: {status}")

    def joules(self) -> float:
        millijoules = ctypes.c_ulonglong()
        status = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(millijoules))
        if status:
            raise RuntimeError(f"nvmlDeviceGetTotalEnergyConsumption: {status}")
        return millijoules.value / 1e3


def product(kind: str) -> Part:
    """Gate and up of a layer, over values of a kind; four weights in turn, so that none stays in L2."""
    x = torch.randn(TOKENS, HIDDEN, device="cuda", dtype=torch.bfloat16)
    weights = [torch.zeros(2 * PAIRS, HIDDEN, device="cuda", dtype=torch.bfloat16) for _ in range(4)]
    for weight in weights if kind != "zeros" else ():
        weight.normal_(0, 0.02) if kind == "normal" else weight.uniform_(-1e-3, 1e-3)
    out = x.new_empty(TOKENS, 2 * PAIRS)

    def body() -> None:
        for weight in weights:
            torch.mm(x, weight.t(), out=out)

    moved = weights[0].nbytes + x.nbytes + out.nbytes
    return Part(f"gate and up, weights {kind}", body, 4 * 2 * TOKENS * 2 * PAIRS * HIDDEN, 4 * moved)


def reading(name: str, memory: torch.Tensor) -> Part:
    return Part(f"reading {name}", partial(torch.amax, memory.view(torch.int32), 0), 0, memory.nbytes)


def decode(name: str) -> Part:
    inputs = attention.make_inputs("8b", DECODES, [(1, CONTEXT)] * DECODES, 16, 0)
    if name == "zeros":
        inputs.k_cache, inputs.v_cache = torch.zeros_like(inputs.k_cache), torch.zeros_like(inputs.v_cache)
    tokens = DECODES * CONTEXT
    heads, kv_heads, head_dim = attention.HEADS["8b"]
    body = partial(attention.ours, None, None, None, inputs)
    moved = tokens * 2 * kv_heads * head_dim * inputs.k_cache.element_size()
    return Part(f"decode attention, cache {name}", body, 4 * tokens * heads * head_dim, moved)


def prefill() -> Part:
    inputs = attention.make_inputs("8b", 0, CHUNKS, 16, 0)
    heads, _, head_dim = attention.HEADS["8b"]
    pairs = sum(queries * (length - queries / 2) for queries, length in CHUNKS)
    body = partial(attention.ours, None, None, None, inputs)
    return Part("prefill attention", body, 4 * pairs * heads * head_dim, 2 * inputs.q.nbytes)


def parts() -> list[Part]:
    memory = torch.empty(GIB // 2, device="cuda", dtype=torch.bfloat16)
    gate_up = torch.randn(TOKENS, 2 * PAIRS, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(TOKENS, HIDDEN, device="cuda", dtype=torch.bfloat16)
    ones = torch.ones(HIDDEN, device="cuda", dtype=torch.bfloat16)
    return [
        *(product(kind) for kind in ("normal", "uniform", "zeros")),
        Part("silu and mul", partial(silu_and_mul, gate_up), 0, 1.5 * gate_up.nbytes),
        Part("add and norm", partial(rms_norm, x, ones, 1e-5, torch.zeros_like(x)), 0, 4 * x.nbytes),
        decode("normal"), decode("zeros"), prefill(),
        reading("normal values", memory.normal_()), reading("zeros", torch.zeros_like(memory)),
    ]  # fmt: skip


def measure(part: Part, counter: Counter) -> dict[str, float]:
    sustained_us(part.body, WARM_S)
    before, began = counter.joules(), time.perf_counter()
    us = sustained_us(part.body, MEASURED_S)
    watts = (counter.joules() - before) / (time.perf_counter() - began)
    joules = watts * us * 1e-6
    found = {
        "us": round(us, 1), "W": round(watts), "mJ": round(1e3 * joules, 2),
        "TB_per_s": round(part.bytes / us / 1e6, 2), "pJ_per_byte": round(1e12 * joules / part.bytes),
    }  # fmt: skip
    if part.operations:
        found["TFLOP_per_s"] = round(part.operations / us / 1e6)
        found["pJ_per_FLOP"] = round(1e12 * joules / part.operations, 3)
    return found


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def main() -> None:
    arguments = parse(sys.argv[1:])
    if not torch.cuda.is_available():
        sys.exit("there is no GPU")
    counter, every = Counter(), parts()
    found: dict[str, list[dict[str, float]]] = {part.name: [] for part in every}
    for _ in range(ROUNDS):
        for part in every:
            found[part.name].append(measure(part, counter))
    time.sleep(1)
    before = counter.joules()
    time.sleep(1)
    report = conditions("python -m bench.kernels.energy") | {
        "idle_W": counter.joules() - before,
        "parts": found,
    }
    print(f"idle, clocks up: {report['idle_W']:.0f} W")
    for name, rounds in found.items():
        print(f"{name:32s} {rounds}", flush=True)
    if arguments.json:
        write(arguments.json, report)


if __name__ == "__main__":
    main()
