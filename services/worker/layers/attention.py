"""Grouped-query attention over the paged KV pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kernels.attention import AttentionMeta, paged_attention
from kernels.rope_kv import rope_and_store
from services.worker.layers.build import Build
from services.worker.layers.linear import Columns, Linear, RowParallelLinear, share, split_columns
from services.worker.layers.norm import RMSNorm
from services.worker.parallel.group import TensorParallel


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """One layer's attention as the configuration has it, before it is split over ranks."""

    hidden_size: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool
    o_bias: bool
    qk_norm: bool
    norm_eps: float
    sliding_window: int | None


@dataclass(frozen=True, slots=True)
class SampledRows:
    """The R rows of a step that tokens are drawn for: of the last layer, only their outputs are read.

    tokens: int64 [R], the last token of each among the step's T.
    attention: the rows as decodes, with that token as their query.
    """

    tokens: Tensor
    attention: AttentionMeta


@dataclass(frozen=True, slots=True)
class StepMeta:
    """Where a step's tokens are stored and what each attends to.

    slot_mapping: int64 [T], block * block_size + offset, -1 to store nothing.
    cos_sin: float32 [positions, head_dim], the RoPE table that positions index.
    sampled: the rows whose final hidden states are wanted; None for every token's.
    """

    slot_mapping: Tensor
    cos_sin: Tensor
    attention: AttentionMeta
    sampled: SampledRows | None = None
    memo: dict[Any, Any] = field(default_factory=dict)
    """What the layers on cpu work out once for the step."""


@dataclass(frozen=True, slots=True)
class LayerKV:
    """One layer's keys and values: [num_blocks, block_size, this rank's KV heads, head_dim] each."""

    k: Tensor
    v: Tensor


def local_kv_heads(num_kv_heads: int, tp: TensorParallel) -> int:
    """KV heads a rank keeps. With fewer heads than ranks, neighbouring ranks keep copies of one head."""
    if num_kv_heads >= tp.size:
        return share("num_key_value_heads", num_kv_heads, tp)
    share("the ranks per KV head", tp.size, TensorParallel(size=num_kv_heads))
    return 1


class Attention:
    def __init__(self, build: Build, name: str, shape: AttentionShape) -> None:
        tp = build.tp
        self.num_q_heads = share("num_attention_heads", shape.num_q_heads, tp)
        self.num_kv_heads = local_kv_heads(shape.num_kv_heads, tp)
        self.head_dim = shape.head_dim
        self.scale = shape.head_dim**-0.5
        self.sliding_window = shape.sliding_window
        self.norm_eps = shape.norm_eps
        first_kv_head = tp.rank * shape.num_kv_heads // tp.size
        kv_rows = shape.num_kv_heads * shape.head_dim
        kv = (kv_rows, first_kv_head * shape.head_dim, self.num_kv_heads * shape.head_dim)
        parts = [
            split_columns(f"{name}.q_proj", shape.num_q_heads * shape.head_dim, tp),
            Columns(f"{name}.k_proj", *kv),
            Columns(f"{name}.v_proj", *kv),
        ]
        self.qkv = Linear(build, parts, shape.hidden_size, shape.qkv_bias)
        self.o = RowParallelLinear(
            build,
            f"{name}.o_proj",
            shape.hidden_size,
            shape.num_q_heads * shape.head_dim,
            shape.o_bias,
            area=0,
        )
        self.q_norm = self.k_norm = None
        if shape.qk_norm:
            self.q_norm = RMSNorm(build, f"{name}.q_norm", shape.head_dim, shape.norm_eps).weight
            self.k_norm = RMSNorm(build, f"{name}.k_norm", shape.head_dim, shape.norm_eps).weight

    def __call__(
        self,
        x: Tensor,
        stream: Tensor,
        next_norm: RMSNorm,
        positions: Tensor,
        kv: LayerKV,
        meta: StepMeta,
        only: SampledRows | None = None,
    ) -> Tensor:
        """Adds the attention of x [T, H] to the residual stream and returns that normalised: `add_and_normalise`.

        positions: int64 [T]. The step's keys and values are written to `kv`. `only`: the rows that attend, of which
        `stream` [R, H] then is; without it all do.
        """
        attended = self._attend(self.qkv.parts(x), positions, kv, meta, only)
        return self.o.add_and_normalise(attended, stream, next_norm)

    def add_to(
        self,
        stream: Tensor,
        norm: RMSNorm,
        positions: Tensor,
        kv: LayerKV,
        meta: StepMeta,
        only: SampledRows | None = None,
    ) -> Tensor:
        """Adds the attention of the normalised residual stream [T, H] to it in place. Needs `o.can_add`.

        Returns the stream; with `only`, a copy of these rows of it [R, H], to which their attention is added.
        """
        attended = self._attend(self.qkv.of_norm(stream, norm), positions, kv, meta, only)
        if only is not None:
            stream = stream.index_select(0, only.tokens)
        self.o.add_to(stream, attended)
        return stream

    def _attend(
        self, qkv: Tensor, positions: Tensor, kv: LayerKV, meta: StepMeta, only: SampledRows | None
    ) -> Tensor:
        """qkv [T, (query + 2 KV heads) * head_dim] to the heads' outputs side by side, of all tokens or `only` [R].

        Or parts of it [S, T, ...]: see `rope_and_store`.
        """
        q = rope_and_store(
            qkv,
            positions,
            meta.cos_sin,
            meta.slot_mapping,
            kv.k,
            kv.v,
            self.num_q_heads,
            self.num_kv_heads,
            self.q_norm,
            self.k_norm,
            self.norm_eps,
            meta.memo,
        )
        attention = meta.attention
        if only is not None:
            q, attention = q.index_select(0, only.tokens), only.attention
        out = paged_attention(q, kv.k, kv.v, attention, self.scale, self.sliding_window)
        return out.view(len(q), self.num_q_heads * self.head_dim)


class KVPool:
    """The paged KV of all layers on one rank. Block 0 is scratch: padding rows point at it."""

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        shape = (num_blocks, block_size, num_kv_heads, head_dim)
        # Zeros, not garbage: a masked position's value is multiplied by 0, and 0 * NaN would be NaN.
        self.layers = [
            LayerKV(
                torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device)
            )
            for _ in range(num_layers)
        ]


def kv_bytes_per_block(
    num_layers: int, block_size: int, num_kv_heads: int, head_dim: int, itemsize: int
) -> int:
    return 2 * num_layers * block_size * num_kv_heads * head_dim * itemsize
