"""Norm, activation, embedding and RoPE kernels in Triton's interpreter (or on a GPU) against their references."""

import pytest
import torch
from helpers import DEVICE, TOLERANCE, relative_error

from kernels.activation import reference as activation_reference
from kernels.embedding import reference as embedding_reference
from kernels.norm import reference as norm_reference
from kernels.rope_kv import reference as rope_reference

pytest.importorskip("triton")
from kernels.activation.kernel import silu_and_mul_triton
from kernels.embedding.kernel import embedding_triton
from kernels.norm.kernel import rms_norm_triton
from kernels.rope_kv.kernel import rope_and_store_triton


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(3, 96), (1, 257)])
@pytest.mark.parametrize("with_residual", [False, True])
def test_rms_norm(dtype: torch.dtype, shape: tuple[int, int], with_residual: bool) -> None:
    x, weight = random(*shape, dtype=dtype), random(shape[1], dtype=dtype)
    residual = random(*shape, dtype=dtype) if with_residual else None
    kept = None if residual is None else residual.clone()
    out = rms_norm_triton(x, weight, 1e-5, residual)
    assert relative_error(out, norm_reference.rms_norm(x, weight, 1e-5, kept)) < TOLERANCE[dtype]
    if residual is not None:
        assert relative_error(residual, kept) < TOLERANCE[dtype]


def test_rms_norm_reference_matches_float64() -> None:
    x, weight, residual = random(5, 48), random(48), random(5, 48)
    total = x.double() + residual.double()
    answer = total / (total.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    assert relative_error(norm_reference.rms_norm(x, weight, 1e-5, residual), answer) < 1e-6
    assert relative_error(residual, total) < 1e-6


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_silu_and_mul(dtype: torch.dtype) -> None:
    gate_up = random(3, 2 * 100, dtype=dtype)
    out = silu_and_mul_triton(gate_up)
    assert relative_error(out, activation_reference.silu_and_mul(gate_up)) < TOLERANCE[dtype]


@pytest.mark.parametrize("id_type", [torch.int32, torch.int64])
def test_embedding_gives_zeros_outside_the_shard(id_type: torch.dtype) -> None:
    weight, ids = random(10, 40), torch.tensor([0, 5, 14, 7, 15, 99], dtype=id_type, device=DEVICE)
    out = embedding_triton(ids, weight, vocab_start=5)
    assert torch.equal(out, embedding_reference.embedding(ids, weight, vocab_start=5))
    assert torch.equal(out[1], weight[0])
    assert not out[[0, 4, 5]].any()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize(("head_dim", "rotated"), [(32, 32), (32, 16), (24, 24)])
@pytest.mark.parametrize(("are_many", "parts"), [(False, None), (True, None), (False, 3)])
def test_rope_and_store(
    dtype: torch.dtype,
    with_norm: bool,
    head_dim: int,
    rotated: int,
    are_many: bool,
    parts: int | None,
    monkeypatch,
) -> None:
    tokens = 3
    monkeypatch.setattr("kernels.rope_kv.kernel.MANY_TOKENS", tokens if are_many else tokens + 1)
    num_q, num_kv, blocks, block_size = 3, 2, 40, 4
    qkv = random(tokens, (num_q + 2 * num_kv) * head_dim, dtype=dtype)
    if parts is not None:
        qkv = random(parts, *qkv.shape)
    positions = torch.randint(0, 50, (tokens,), device=DEVICE)
    cos_sin = random(50, rotated)
    slots = torch.randperm(blocks * block_size, device=DEVICE)[:tokens]
    slots[1] = -1
    weights = (random(head_dim, dtype=dtype), random(head_dim, dtype=dtype)) if with_norm else (None, None)
    caches = [random(blocks, block_size, num_kv, head_dim, dtype=dtype) for _ in "kv"]
    expected = [cache.clone() for cache in caches]
    q = rope_and_store_triton(qkv, positions, cos_sin, slots, *caches, num_q, num_kv, *weights)
    answer = rope_reference.rope_and_store(qkv, positions, cos_sin, slots, *expected, num_q, num_kv, *weights)
    assert relative_error(q, answer) < TOLERANCE[dtype]
    for cache, wanted in zip(caches, expected, strict=True):
        assert relative_error(cache, wanted) < TOLERANCE[dtype]


def test_rope_reference_turns_by_the_position() -> None:
    tokens, head_dim = 4, 8
    angles = torch.arange(10.0).unsqueeze(1) * torch.tensor([1.0, 0.5, 0.25, 0.125])
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=1)
    qkv = torch.randn(tokens, 3 * head_dim)
    positions = torch.tensor([0, 3, 9, 1])
    k_cache, v_cache = torch.zeros(2, 1, 4, 1, head_dim)[0], torch.zeros(1, 4, 1, head_dim)
    q = rope_reference.rope_and_store(
        qkv, positions, cos_sin, torch.arange(4), k_cache, v_cache, num_q_heads=1, num_kv_heads=1
    )
    pairs = torch.view_as_complex(torch.stack((qkv[:, :4], qkv[:, 4:8]), dim=-1))
    turned = pairs * torch.polar(torch.ones(4, 4), angles[positions])
    assert relative_error(q[:, 0], torch.cat((turned.real, turned.imag), dim=-1)) < 1e-6
    assert torch.equal(v_cache[0, :, 0], qkv[:, 16:])
