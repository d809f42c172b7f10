"""QK norm, rotary position embedding and the write to the paged KV cache, in one pass over q, k and v."""

from __future__ import annotations

from typing import Any

import torch

from kernels.checks import require, require_rows, require_vector
from kernels.rope_kv import reference


def rope_and_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    slot_mapping: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    num_q_heads: int,
    num_kv_heads: int,
    q_norm_weight: torch.Tensor | None = None,
    k_norm_weight: torch.Tensor | None = None,
    eps: float = 1e-6,
    memo: dict[Any, Any] | None = None,
) -> torch.Tensor:
    """Rotate q and k, write k and v to their cache slots, return q as [T, Hq, D].

    qkv:            [T, (Hq + 2 Hkv) D], the fused projection's output; or float32 parts of it [S, T, (Hq + 2 Hkv) D],
                    which are summed in order and rounded to the caches' type.
    positions:      [T] int32 or int64, each token's absolute position.
    cos_sin:        [max_pos, D_rot] float32: cosines of the D_rot / 2 frequencies, then sines. Only the first D_rot
                    dimensions of a head turn (rotate-half pairing i with i + D_rot / 2).
    slot_mapping:   [T] int64, block * block_size + offset; a negative slot stores nothing.
    k_cache, v_cache: [num_blocks, block_size, Hkv, D], written in place.
    q_norm_weight, k_norm_weight: [D], RMS norm per head before the rotation (Qwen3), or None.

    memo:           what the CPU reference works out once for the calls of a step with the same positions, cos_sin and
                    slot_mapping; starts empty.

    The rotation is computed in float32 and rounded once. Raises ValueError for shapes that do not match.
    """
    head_dim = k_cache.shape[-1]
    require(qkv.dim() in (2, 3) and qkv.is_contiguous(), "qkv must be contiguous, a result or parts of one")
    require_rows("qkv", qkv.flatten(0, -2), (num_q_heads + 2 * num_kv_heads) * head_dim)
    require_vector("positions", positions, qkv.shape[-2])
    require_vector("slot_mapping", slot_mapping, qkv.shape[-2])
    require(cos_sin.dim() == 2 and cos_sin.dtype == torch.float32, "cos_sin must be [max_pos, D_rot] float32")
    require(
        cos_sin.shape[1] % 2 == 0 and cos_sin.shape[1] <= head_dim, f"cos_sin has {cos_sin.shape[1]} columns"
    )
    require(
        k_cache.dim() == 4 and k_cache.shape[2] == num_kv_heads, f"k_cache has shape {tuple(k_cache.shape)}"
    )
    require(k_cache.shape == v_cache.shape, f"v_cache {tuple(v_cache.shape)} must match k_cache")
    require(k_cache.is_contiguous() and v_cache.is_contiguous(), "the caches must be contiguous")
    require((q_norm_weight is None) == (k_norm_weight is None), "QK norm needs both weights or neither")
    if not qkv.is_cuda:
        return reference.rope_and_store(
            qkv, positions, cos_sin, slot_mapping, k_cache, v_cache, num_q_heads, num_kv_heads,
            q_norm_weight, k_norm_weight, eps, memo,
        )  # fmt: skip
    from kernels.rope_kv.kernel import rope_and_store_triton

    return rope_and_store_triton(
        qkv, positions, cos_sin, slot_mapping, k_cache, v_cache, num_q_heads, num_kv_heads,
        q_norm_weight, k_norm_weight, eps,
    )  # fmt: skip
