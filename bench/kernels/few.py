"""Products of few tokens whose choice is open: K split over programs, and weights asked for while ranks meet.

A short run, for what the table of a GPU says of them: `python -m bench.kernels --out FILE --only few`.

Over ranks the products for qkv and for gate and up follow a sum over ranks, during which the memory is idle: here a
pause, in which their programs may already ask for weights. qkv is timed with the kernel that reads it. The pause alone
is a line of its own, to be taken off the others.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from bench.kernels.linear import (
    DEVICE,
    SHAPES,
    Inputs,
    answer,
    block_of,
    group_of,
    make_inputs,
    named,
    splits,
)
from bench.kernels.measure import Group, Variant
from bench.kernels.simple import rope_inputs, rope_view
from kernels.activation.kernel import silu_and_mul_triton
from kernels.activation.reference import silu_and_mul
from kernels.linear.launch import Gemv, Product, Skinny, run_parts
from kernels.linear.table import choose, run_few
from kernels.pdl import launch_downstream, launch_options, wait_upstream
from kernels.rope_kv import reference as rope_reference
from kernels.rope_kv.kernel import rope_and_store_triton

TOKENS = (32, 64, 16)
PAUSE_CYCLES = 15_000  # about 8 us, which a sum of 32 tokens over four ranks takes
HEADS = (10, 2)  # of a rank of the 32B's four, for queries and for keys


@triton.jit
def clock():
    return tl.inline_asm_elementwise("mov.u64 $0, %clock64;", "=l", [], dtype=tl.int64, is_pure=False, pack=1)


@triton.jit
def pause_kernel(cycles, PDL: tl.constexpr):
    wait_upstream(PDL)
    launch_downstream(PDL)
    start = clock()
    now = start
    while now - start < cycles:
        now = clock()


def pause(x: torch.Tensor) -> torch.Tensor:
    """What a sum over ranks is for the product after it: a kernel that lets it begin and leaves the memory alone."""
    pause_kernel[(1,)](PAUSE_CYCLES, num_warps=1, **launch_options(x.device))
    return x


@dataclass
class QKVInputs:
    product: Inputs
    rope: dict[str, Any]


def make_qkv(tokens: int, width: int, depth: int, seed: int) -> QKVInputs:
    rope = rope_inputs(tokens, *HEADS, seed) | {"q_norm_weight": None, "k_norm_weight": None}
    del rope["qkv"]
    return QKVInputs(make_inputs(tokens, width, depth, "bias", seed), rope)


def qkv_answer(inputs: QKVInputs) -> torch.Tensor:
    qkv = answer("bias", inputs.product).to(torch.bfloat16)
    out = rope_view(inputs.rope, rope_reference.rope_and_store(qkv, **inputs.rope))
    for name in ("k_cache", "v_cache"):
        inputs.rope[name].zero_()
    return out


def qkv(config: Skinny | None, inputs: QKVInputs) -> torch.Tensor:
    """q, of parts that RoPE sums; without a configuration by the library."""
    x, weight, bias = inputs.product.x, inputs.product.weight, inputs.product.bias
    pause(x)
    out = F.linear(x, weight, bias) if config is None else run_parts(x, weight, bias, config)
    return rope_and_store_triton(out, **inputs.rope)


def qkv_group(width: int, depth: int, tokens: int) -> Group:
    tried = [Variant("library", functools.partial(qkv, None), {"kind": "library"})]
    for config in splits(width, depth, block_of(tokens)):
        name = named("bias", config).name
        tried.append(Variant(name, functools.partial(qkv, config), {"kind": "skinny", **asdict(config)}))
    return replace(
        group_of("32b-tp4", "pause+qkv+rope", width, depth, "bias", tokens, tried),
        make=functools.partial(make_qkv, tokens, width, depth),
        answer=qkv_answer,
        view=lambda inputs, q: rope_view(inputs.rope, q),
        prepare=None,
    )


def gate_up(config: Gemv | Skinny | None, inputs: Inputs) -> torch.Tensor:
    x, weight = inputs.x, inputs.weight
    pause(x)
    if config is None:
        return silu_and_mul_triton(F.linear(x, weight))
    return run_few(Product(x, weight, x.new_empty(x.shape[0], weight.shape[0] // 2), silu=True), config)


def gate_up_answer(inputs: Inputs) -> torch.Tensor:
    return silu_and_mul(inputs.x.double() @ inputs.weight.double().T)


def gate_up_group(width: int, depth: int, tokens: int) -> Group:
    """The table's choice or a usual one, with more or fewer of the weights asked for during the pause."""
    now = choose(torch.device(DEVICE), tokens, width, depth, True)
    tried = [Variant("library", functools.partial(gate_up, None), {"kind": "library"})]
    if not isinstance(now, Skinny):
        now = Skinny(block_of(tokens), 64, 128, 4, 4, True, 56, 0)
    for ahead in (0, 256, 512, 1024):
        config = replace(now, ahead=ahead)
        run = functools.partial(gate_up, config)
        tried.append(Variant(named("silu", config).name, run, {"kind": "skinny", **asdict(config)}))
    group = group_of("32b-tp4", "pause+gate_up", width, depth, "silu", tokens, tried)
    return replace(group, answer=gate_up_answer, prepare=None)


def groups() -> Iterator[Group]:
    """By what they may win, the most first."""
    shapes = {shape[0]: shape for shape in SHAPES["32b-tp4"]}
    yield Group(
        "pause", "32b-tp4 pause", [Variant("pause", pause)], lambda _: torch.empty(1, device=DEVICE), None
    )
    for make, name in ((qkv_group, "qkv"), (gate_up_group, "gate_up")):
        _, width, depth, _ = shapes[name]
        for tokens in TOKENS:
            yield make(width, depth, tokens)
