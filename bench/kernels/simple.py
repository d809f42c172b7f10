"""Norm, activation, embedding and RoPE + KV write: all bound by bytes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch

from bench.kernels.measure import Group, Variant
from kernels.activation.kernel import silu_and_mul_triton
from kernels.embedding.kernel import embedding_triton
from kernels.norm.kernel import rms_norm_triton
from kernels.rope_kv import reference as rope_reference
from kernels.rope_kv.kernel import rope_and_store_triton

DEVICE = "cuda"
TOKENS = (1, 32, 256, 8192)


def random(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=DEVICE).to(dtype)


def norm_answer(inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    x, weight, residual = (part.double() for part in inputs)
    total = (x + residual).to(torch.bfloat16).double()
    return total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-5) * weight


def rope_inputs(tokens: int, num_q: int, num_kv: int, seed: int) -> dict[str, Any]:
    blocks = -(-tokens // 16) + 64
    return {
        "qkv": random(tokens, (num_q + 2 * num_kv) * 128, seed=seed),
        "positions": torch.arange(tokens, device=DEVICE) % 8192,
        "cos_sin": random(8192, 128, seed=0, dtype=torch.float32),
        "slot_mapping": torch.randperm(blocks * 16, device=DEVICE)[:tokens],
        "k_cache": torch.zeros(blocks, 16, num_kv, 128, device=DEVICE, dtype=torch.bfloat16),
        "v_cache": torch.zeros(blocks, 16, num_kv, 128, device=DEVICE, dtype=torch.bfloat16),
        "num_q_heads": num_q,
        "num_kv_heads": num_kv,
        "q_norm_weight": random(128, seed=1),
        "k_norm_weight": random(128, seed=2),
    }


def rope_view(inputs: dict[str, Any], q: torch.Tensor) -> torch.Tensor:
    """q, and what landed in the caches."""
    heads = inputs["num_kv_heads"]
    stored = [
        inputs[name].view(-1, heads, 128)[inputs["slot_mapping"]].flatten() for name in ("k_cache", "v_cache")
    ]
    return torch.cat([q.flatten(), *stored])


def rope_answer(inputs: dict[str, Any]) -> torch.Tensor:
    # The reference is float32 inside and follows the kernel's roundings; its own test is against float64.
    out = rope_view(inputs, rope_reference.rope_and_store(**inputs))
    inputs["k_cache"].fill_(float("nan"))
    inputs["v_cache"].fill_(float("nan"))
    return out


def groups() -> Iterator[Group]:
    for tokens in TOKENS:
        for width in (4096, 1024):
            yield Group(
                "norm", f"T{tokens} H{width}",
                [Variant("ours", lambda i: rms_norm_triton(i[0], i[1], 1e-5, i[2]))],
                lambda seed, t=tokens, w=width: (
                    random(t, w, seed=seed), random(w, seed=0), random(t, w, seed=seed + 100)
                ),
                norm_answer, bytes=8.0 * tokens * width,
            )  # fmt: skip
        yield Group(
            "activation", f"T{tokens} I14336", [Variant("ours", silu_and_mul_triton)],
            lambda seed, t=tokens: random(t, 2 * 14336, seed=seed),
            lambda x: torch.nn.functional.silu(x.double()[:, :14336]) * x.double()[:, 14336:],
            bytes=6.0 * tokens * 14336,
        )  # fmt: skip
        yield Group(
            "embedding", f"T{tokens} H4096", [Variant("ours", lambda i: embedding_triton(i[0], i[1]))],
            lambda seed, t=tokens: (torch.randint(0, 32000, (t,), device=DEVICE), random(32000, 4096, seed=0)),
            lambda i: i[1][i[0]].double(), bytes=4.0 * tokens * 4096, tolerance=1e-9,
        )  # fmt: skip
        for num_q, num_kv in ((32, 8), (16, 8)):
            yield Group(
                "rope_kv", f"T{tokens} {num_q}/{num_kv}",
                [Variant("ours", lambda i: rope_and_store_triton(**i))],
                functools.partial(rope_inputs, tokens, num_q, num_kv), rope_answer,
                bytes=4.0 * tokens * (num_q + 2 * num_kv) * 128, view=rope_view,
            )  # fmt: skip
