"""Every launcher of `kernels/`, called as a step of so many tokens calls it, over tensors without memory.

Together the cases launch every kernel. What stays the same from step to step in service (the model's shapes, the
pool, the width of block tables) is the same for any number of tokens here; all else follows the number.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kernels.configs
from kernels.activation.kernel import silu_and_mul_triton
from kernels.attention import AttentionMeta, make_workspace
from kernels.attention.hopper_launch import BLOCK_N, compiled_kernel
from kernels.attention.launch import (
    DecodeConfig,
    PrefillConfig,
    decode_config,
    decode_triton,
    prefill_config,
    prefill_triton,
)
from kernels.attention.work import prefill_work
from kernels.embedding.kernel import embedding_triton
from kernels.linear.launch import Gemv, Product, Skinny, run_parts
from kernels.linear.table import DEFAULT_GEMV, MAX_FEW_TOKENS, parse_choice, run_few
from kernels.norm.kernel import rms_norm_triton
from kernels.rank_sum import AREAS, FEW_TOKENS, MAX_PROGRAMS, PeerMemory
from kernels.rank_sum.kernel import rank_sum_rms_norm_triton
from kernels.rope_kv.kernel import rope_and_store_triton
from kernels.sampling import SamplingTensors
from kernels.sampling.launch import sample_triton

META = torch.device("meta")
HEADS = (32, 8)
HEAD_DIMS = (64, 80, 96, 112, 128, 192, 256)
BLOCKS, BLOCK_SIZE, MAX_BLOCKS, SLOTS = 4096, 16, 513, 256
WIDTH, VOCABULARY = 4096, 128256
H200 = json.loads(Path(kernels.configs.__file__).with_name("NVIDIA_H200.json").read_text())


@dataclass(frozen=True)
class Case:
    """`run(tokens)` launches the kernels of a step of so many tokens; on GPUs of at least `capability`."""

    name: str
    run: Callable[[int], object]
    capability: int = 80


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def whole(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.int32)


def long(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.int64)


def real(*shape: int) -> Tensor:
    return empty(*shape, dtype=torch.float32)


def simple(tokens: int) -> None:
    """Embedding, norms, activation."""
    stream = embedding_triton(long(tokens), empty(VOCABULARY, WIDTH), 0)
    rms_norm_triton(stream, empty(WIDTH), 1e-6, empty(tokens, WIDTH))
    silu_and_mul_triton(empty(tokens, 2 * 14336))


def first_norm(tokens: int) -> None:
    rms_norm_triton(empty(tokens, WIDTH), empty(WIDTH), 1e-6)


def rope(head_dim: int, normed: bool, tokens: int) -> None:
    cache = empty(BLOCKS, BLOCK_SIZE, HEADS[1], head_dim)
    weights = (empty(head_dim), empty(head_dim)) if normed else (None, None)
    rope_and_store_triton(
        empty(tokens, (HEADS[0] + 2 * HEADS[1]) * head_dim), long(tokens), real(8192, head_dim), long(tokens),
        cache, cache, *HEADS, *weights,
    )  # fmt: skip


def attention_meta(tokens: int, rows: int, num_decodes: int, head_dim: int) -> AttentionMeta:
    """A step whose longest row grows with its tokens."""
    return AttentionMeta(
        whole(rows, MAX_BLOCKS), whole(rows), whole(rows + 1), num_decodes, tokens, 4000 + tokens,
        make_workspace(SLOTS, *HEADS, head_dim, META),
    )  # fmt: skip


def decode(head_dim: int, window: int | None, config: DecodeConfig | None, tokens: int) -> None:
    q, cache = empty(tokens, HEADS[0], head_dim), empty(BLOCKS, BLOCK_SIZE, HEADS[1], head_dim)
    meta = attention_meta(tokens, tokens, tokens, head_dim)
    # No device, one multiprocessor: as many programs as 132 would have, so that splits change with the rows as there.
    config = config or decode_config(META)
    config = replace(config, programs_per_sm=132 * config.programs_per_sm)
    decode_triton(q, cache, cache, meta, 0.1, window, torch.empty_like(q), config)


def prefill(
    head_dim: int, window: int | None, block_size: int, config: PrefillConfig | None, tokens: int
) -> None:
    """One chunk beside `tokens` decodes, so that the first row of the chunks varies too."""
    q, cache = empty(2 * tokens, HEADS[0], head_dim), empty(BLOCKS, block_size, HEADS[1], head_dim)
    meta = attention_meta(tokens, tokens + 1, tokens, head_dim)
    config = config or prefill_config(META, head_dim)
    prefill_triton(q, cache, cache, meta, 0.1, window, torch.empty_like(q), config)


def hopper(head_dim: int, block_size: int, tokens: int) -> None:
    """The Gluon kernel is compiled once for a model and its cache; the work before it is launched for every step."""
    compiled_kernel.__wrapped__(META, torch.bfloat16, *HEADS, head_dim, block_size)
    prefill_work(attention_meta(tokens, 2 * tokens + 1, tokens, head_dim), tokens)


def product(entry: dict[str, Any] | None, key: str, fusion: str, tokens: int) -> None:
    """A product of the table; one-token kernels take one token whatever the step has."""
    config = DEFAULT_GEMV if entry is None else parse_choice(entry)
    assert config is not None
    width, depth = (int(size) for size in key.removesuffix("-silu").split("x"))
    rows = 1 if isinstance(config, Gemv) else tokens
    silu = key.endswith("-silu")
    x, out = empty(rows, depth), empty(rows, width)
    norm = empty(depth) if fusion == "norm" else None
    bias = empty(width) if fusion == "bias" else None
    weight = empty(2 * width if silu else width, depth)
    run_few(Product(x, weight, out, bias, norm, 1e-6, silu, fusion == "residual"), config)


def split_qkv(entry: dict[str, Any], key: str, tokens: int) -> None:
    """A product of the table in parts, and the kernel that sums them; steps of more tokens have no parts."""
    config = parse_choice(entry)
    assert isinstance(config, Skinny)
    tokens = min(tokens, MAX_FEW_TOKENS)
    width, depth = map(int, key.split("x"))
    parts = run_parts(empty(tokens, depth), empty(width, depth), empty(width), config)
    head_dim, num_kv_heads = 128, 2
    cache = empty(BLOCKS, BLOCK_SIZE, num_kv_heads, head_dim)
    num_q_heads = width // head_dim - 2 * num_kv_heads
    places = (long(tokens), real(8192, head_dim), long(tokens))
    rope_and_store_triton(parts, *places, cache, cache, num_q_heads, num_kv_heads)


def rank_sum(ranks: int, width: int, shared_out: bool, tokens: int) -> None:
    """Both areas, of more tokens than one: a single token has a kernel of its own."""
    tokens = tokens + 1 + (FEW_TOKENS if shared_out else 0)
    capacity = 1 << 25
    buffer = empty(PeerMemory.bytes_needed(ranks, capacity), dtype=torch.uint8)
    memory = PeerMemory(long(ranks), buffer, 1, capacity, MAX_PROGRAMS)
    for area in range(AREAS):
        rank_sum_rms_norm_triton(memory, empty(tokens, width), empty(width), 1e-6, area, shared_out)


def sampling(restricted: bool, processed: bool, logprobs: bool, tokens: int) -> None:
    extra: dict[str, Any] = {}
    if processed:
        extra = {
            "any_penalty": True, "slot": long(tokens), "output_counts": whole(SLOTS, VOCABULARY),
            "prompt_mask": empty(SLOTS, VOCABULARY, dtype=torch.bool), "any_logit_bias": True,
            "bias_start": whole(tokens + 1), "bias_ids": whole(tokens), "bias_values": real(tokens),
            "allowed_mask": whole(tokens, -(-VOCABULARY // 32)),
        }  # fmt: skip
    params = SamplingTensors(
        temperature=real(tokens), top_p=real(tokens), top_k=whole(tokens), min_p=real(tokens), seed=long(tokens),
        presence=real(tokens), frequency=real(tokens), repetition=real(tokens),
        any_top_p_k=restricted, all_greedy=not restricted, any_logprobs=logprobs, **extra,
    )  # fmt: skip
    sample_triton(empty(tokens, VOCABULARY), params, long(tokens))


def products() -> Iterator[Case]:
    """The default for one token, then each entry of the H200's table, with the fusions that its kernel knows."""
    fusions = ("", "bias", "residual", "norm")
    for fusion in fusions:
        yield Case(f"gemv {fusion}", partial(product, None, "6144x4096", fusion))
    yield Case("gemv silu norm", partial(product, None, "14336x4096-silu", "norm"))
    for key, entries in H200["linear"].items():
        for entry in entries:
            if entry["kind"] != "library":
                name = f"{entry['kind']} {key} up to {entry['max_tokens']}"
                split = entry.get("splits", 1) > 1
                run = partial(split_qkv, entry, key) if split else partial(product, entry, key, "")
                yield Case(name, run, 90)


def cases() -> Iterator[Case]:
    """Every launcher at the sizes of common models; what only the H200's table asks for needs a Hopper."""
    yield Case("simple", simple)
    yield Case("first norm", first_norm)
    for head_dim in HEAD_DIMS:
        yield Case(f"rope {head_dim}", partial(rope, head_dim, head_dim == 128))
        for window in (None, 1024):
            slid = f"{head_dim}{' window' if window else ''}"
            yield Case(f"decode {slid}", partial(decode, head_dim, window, None))
            yield Case(f"prefill {slid}", partial(prefill, head_dim, window, BLOCK_SIZE, None))
        tuned = PrefillConfig(
            **H200["attention_prefill"][str(next(d for d in (64, 128, 256) if d >= head_dim))]
        )
        tuned_decode = DecodeConfig(**H200["attention_decode"])
        yield Case(f"tuned decode {head_dim}", partial(decode, head_dim, None, tuned_decode), 90)
        for block_size in (16, 64):
            name = f"tuned prefill {head_dim} blocks of {block_size}"
            yield Case(name, partial(prefill, head_dim, None, block_size, tuned), 90)
            if head_dim in BLOCK_N:
                yield Case(
                    f"hopper {head_dim} blocks of {block_size}", partial(hopper, head_dim, block_size), 90
                )
    yield from products()
    for width, ranks in ((4096, 2), (8192, 8), (16384, 4)):
        for shared_out in (False, True):
            name = f"rank sum {width} over {ranks}{' shared out' if shared_out else ''}"
            yield Case(name, partial(rank_sum, ranks, width, shared_out))
    for flags in itertools.product((False, True), repeat=3):
        names = zip(("restricted", "processed", "logprobs"), flags, strict=True)
        yield Case(" ".join(["sampling", *(n for n, flag in names if flag)]), partial(sampling, *flags))
