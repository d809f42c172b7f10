"""Inputs and float64 answers shared by the kernel tests and the kernel benchmark."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from kernels.attention import AttentionMeta, Workspace
from kernels.sampling import SamplingTensors

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter truncates to bfloat16 and multiplies its tiles as integers, so that type is for GPUs only.
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16
TOLERANCE = {torch.float32: 1e-5, HALF: 2e-2}


@dataclass
class AttentionCase:
    """A random ragged batch over a paged cache whose blocks are handed out in random order."""

    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    meta: AttentionMeta
    scale: float


def attention_case(
    decode_lens: list[int],
    prefills: list[tuple[int, int]],
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 32,
    block_size: int = 4,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    workspace: Workspace | None = None,
    seed: int = 0,
) -> AttentionCase:
    """`decode_lens`: context length of each decode row; `prefills`: (query length, context length) of each chunk."""
    generator = torch.Generator(device).manual_seed(seed)
    query_lens = [1] * len(decode_lens) + [query for query, _ in prefills]
    seq_lens = decode_lens + [length for _, length in prefills]
    blocks_per_row = [-(-length // block_size) for length in seq_lens]
    num_blocks = sum(blocks_per_row) + 3
    order = torch.randperm(num_blocks, generator=generator, device=device).int()
    tables = torch.full((len(seq_lens), max([*blocks_per_row, 1])), -7, dtype=torch.int32, device=device)
    tables.clamp_(min=0)
    used = 0
    for row, count in enumerate(blocks_per_row):
        tables[row, :count] = order[used : used + count]
        used += count

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device).to(dtype)

    starts = torch.tensor([0, *query_lens], device=device).cumsum(0).int()
    meta = AttentionMeta(
        block_tables=tables,
        seq_lens=torch.tensor(seq_lens, dtype=torch.int32, device=device),
        query_start=starts,
        num_decodes=len(decode_lens),
        max_query_len=max(query_lens),
        max_seq_len=max([*seq_lens, 1]),
        workspace=workspace,
    )
    cache = (num_blocks, block_size, heads[1], head_dim)
    return AttentionCase(
        random(sum(query_lens), heads[0], head_dim), random(*cache), random(*cache), meta, head_dim**-0.5
    )


def padded_as_captured(case: AttentionCase, decodes: int, chunks: int, tokens: int) -> AttentionCase:
    """`case` as a captured step has it: its rows padded to so many decodes and chunks, its tokens at the end."""
    meta, real = case.meta, case.meta.num_decodes

    def pad(values: torch.Tensor, fill: int) -> torch.Tensor:
        def filled(count: int) -> torch.Tensor:
            return torch.full_like(values[:1], fill).expand(count, *values.shape[1:])

        chunk_rows = len(values) - real
        return torch.cat([values[:real], filled(decodes - real), values[real:], filled(chunks - chunk_rows)])

    query_lens = pad(meta.query_start.diff(), 0)
    padded = replace(
        meta,
        block_tables=pad(meta.block_tables, 0),
        seq_lens=pad(meta.seq_lens, 0),
        query_start=torch.cat([query_lens.new_zeros(1), query_lens.cumsum(0).int()]),
        num_decodes=decodes,
        max_query_len=tokens,
        max_seq_len=2 * meta.max_seq_len,
    )
    garbage = torch.full_like(case.q[:1], float("nan")).expand(tokens - len(case.q), *case.q.shape[1:])
    return replace(case, q=torch.cat([case.q, garbage]), meta=padded)


def attention_answer(case: AttentionCase, sliding_window: int | None = None) -> torch.Tensor:
    """Attention of `case` in float64, one query at a time."""
    meta, out = case.meta, torch.zeros_like(case.q, dtype=torch.float64)
    block_size, num_kv_heads, head_dim = case.k_cache.shape[1:]
    group = case.q.shape[1] // num_kv_heads
    for row, length in enumerate(meta.seq_lens.tolist()):
        if not length:
            continue
        begin, end = meta.query_start[row : row + 2].tolist()
        blocks = meta.block_tables[row, : -(-length // block_size)].long()
        k = case.k_cache[blocks].reshape(-1, num_kv_heads, head_dim)[:length].double()
        v = case.v_cache[blocks].reshape(-1, num_kv_heads, head_dim)[:length].double()
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        positions = torch.arange(length, device=k.device)
        at = torch.arange(length - (end - begin), length, device=k.device).unsqueeze(1)
        visible = positions <= at
        if sliding_window is not None:
            visible &= positions > at - sliding_window
        scores = torch.einsum("qhd,khd->hqk", case.q[begin:end].double(), k) * case.scale
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        out[begin:end] = torch.einsum("hqk,khd->qhd", weights, v)
    return out


def relative_error(out: torch.Tensor, answer: torch.Tensor) -> float:
    """`|out - answer| / |answer|` in float64; NaN anywhere gives NaN, which no comparison passes."""
    return float((out.double() - answer.double()).norm() / answer.double().norm().clamp(min=1e-30))


def sampling_params(rows: int, device: str = DEVICE, **overrides: object) -> SamplingTensors:
    """Neutral parameters for `rows` rows at temperature 1, with `overrides`; scalars fill a per-row tensor."""
    types = {
        "temperature": (1.0, torch.float32),
        "top_p": (1.0, torch.float32),
        "top_k": (0, torch.int32),
        "min_p": (0.0, torch.float32),
        "seed": (0, torch.int64),
        "presence": (0.0, torch.float32),
        "frequency": (0.0, torch.float32),
        "repetition": (1.0, torch.float32),
    }
    fields: dict[str, object] = dict(overrides)
    for name, (neutral, dtype) in types.items():
        value = overrides.get(name, neutral)
        is_tensor = isinstance(value, torch.Tensor)
        fields[name] = (
            value.to(device, dtype) if is_tensor else torch.full((rows,), value, dtype=dtype, device=device)
        )
    return SamplingTensors(**fields)
