"""Launching the sampling kernels. No host value depends on a device one: the whole of it can be captured."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton

from kernels.configs import tuned
from kernels.sampling.candidates import bound_kernel, contest_kernel, gather_kernel, measure_kernel
from kernels.sampling.kernel import finish_kernel, partial_kernel
from kernels.sampling.params import SampleOutput, SamplingTensors
from kernels.sampling.process import bias_kernel, process_kernel

# Places for the tokens that top-p tries in turn, of which the first is the total; a power of two.
CONTENDERS = 8


@dataclass(frozen=True)
class SamplingConfig:
    """How rows are split and restricted rows are drawn.

    chunk: scores per chunk, one size for every batch (see kernel.py).   warps: of a program that narrows a row.
    group: scores per maximum.   capacity: tokens that a list of candidates holds.
    """

    chunk: int = 2048
    warps: int = 16
    group: int = 64
    capacity: int = 1024


@functools.cache
def sampling_config(device: torch.device) -> SamplingConfig:
    return SamplingConfig(**tuned(device).get("sampling", {}))


def process_triton(logits: torch.Tensor, params: SamplingTensors, chunk: int) -> torch.Tensor:
    """Scores [R, V] float32 after bias, allowed tokens and penalties; `logits` stay as they are."""
    rows, vocabulary = logits.shape
    scores = torch.empty_like(logits, dtype=torch.float32)
    source = logits
    if params.any_logit_bias:
        source = scores.copy_(logits)
        bias_kernel[(rows,)](
            scores, params.bias_start, params.bias_ids, params.bias_values, vocabulary, 128, num_warps=1
        )
    mask = params.allowed_mask
    if mask is None and not params.any_penalty:
        return scores
    unused = params.temperature
    process_kernel[(rows, triton.cdiv(vocabulary, chunk))](
        source, scores, unused if mask is None else mask,
        params.output_counts if params.any_penalty else unused,
        _as_bytes(params.prompt_mask) if params.any_penalty else unused,
        params.slot if params.any_penalty else unused,
        params.presence, params.frequency, params.repetition,
        vocabulary, 0 if mask is None else mask.stride(0),
        CHUNK=chunk, MASKED=mask is not None, PENALTIES=params.any_penalty, num_warps=8,
    )  # fmt: skip
    return scores


def _as_bytes(mask: torch.Tensor | None) -> torch.Tensor | None:
    return mask.view(torch.int8) if mask is not None and mask.dtype == torch.bool else mask


def find_candidates(
    scores: torch.Tensor,
    params: SamplingTensors,
    token_index: torch.Tensor,
    highest: torch.Tensor,
    maxima: torch.Tensor,
    config: SamplingConfig,
) -> tuple[torch.Tensor, ...]:
    """The winners, contenders and masses that `finish_kernel` takes, from `highest` [R, chunks] and the groups' maxima."""
    (rows, vocabulary), device = scores.shape, scores.device
    chunks, groups = highest.shape[1], maxima.shape[1]
    # One allocation each: Triton compiles once more for a pointer that is not aligned to 16 bytes.
    zmax, floor, bound = (torch.empty(rows, dtype=torch.float32, device=device) for _ in range(3))
    count, winner = (torch.empty(rows, dtype=torch.int32, device=device) for _ in range(2))
    listed_z = torch.empty(rows, config.capacity, dtype=torch.float32, device=device)
    listed_id = torch.empty(rows, config.capacity, dtype=torch.int32, device=device)
    contender_z = torch.empty(rows, CONTENDERS, dtype=torch.float32, device=device)
    contender_id = torch.empty(rows, CONTENDERS, dtype=torch.int32, device=device)
    mass = torch.empty(rows, chunks, CONTENDERS, dtype=torch.float32, device=device)
    restrictions = (params.temperature, params.top_p, params.top_k, params.min_p)
    noise = (params.seed, token_index)
    bound_kernel[(rows,)](
        *restrictions, maxima, zmax, floor, bound, count, vocabulary, groups,
        BLOCK_GROUPS=triton.next_power_of_2(groups), num_warps=4,
    )  # fmt: skip
    gather_kernel[(rows, chunks)](
        scores, *restrictions, *noise, highest, floor, bound, count, listed_z, listed_id, vocabulary,
        CHUNK=config.chunk, CAPACITY=config.capacity, num_warps=max(config.chunk // 256, 1),
    )  # fmt: skip
    contest_kernel[(rows,)](
        *restrictions, *noise, zmax, bound, count, listed_z, listed_id, winner, contender_z, contender_id, vocabulary,
        CAPACITY=config.capacity, CONTENDERS=CONTENDERS, num_warps=max(config.capacity // 128, 1),
    )  # fmt: skip
    measure_kernel[(rows, chunks)](
        scores, params.temperature, params.top_p, params.top_k, zmax, floor, contender_z, mass, vocabulary,
        CHUNK=config.chunk, CONTENDERS=CONTENDERS, num_warps=8,
    )  # fmt: skip
    return winner, contender_z, contender_id, mass


def sample_triton(
    logits: torch.Tensor,
    params: SamplingTensors,
    token_index: torch.Tensor,
    config: SamplingConfig | None = None,
) -> SampleOutput:
    """See `kernels.sampling.sample`."""
    config = config or sampling_config(logits.device)
    chunk, logits = config.chunk, logits.contiguous()
    rows, vocabulary = logits.shape
    chunks = triton.cdiv(vocabulary, chunk)
    scores = process_triton(logits, params, chunk) if params.has_processors else logits
    restricts = params.any_top_p_k and not params.all_greedy
    highest, best, raw_highest, raw_sum = (
        torch.empty(rows, chunks, dtype=torch.float32, device=logits.device) for _ in range(4)
    )
    best_id = torch.empty(rows, chunks, dtype=torch.int32, device=logits.device)
    groups = chunks * (chunk // config.group) if restricts else 0
    maxima = torch.empty(rows, groups, dtype=torch.float32, device=logits.device)
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    logprobs = torch.empty(rows, dtype=torch.float32, device=logits.device)
    if rows:
        shared = (
            logits, scores, params.temperature, params.top_p, params.top_k, params.min_p, params.seed, token_index,
            highest, maxima, best, best_id, raw_highest, raw_sum,
        )  # fmt: skip
        partial_kernel[(rows, chunks)](
            *shared, vocabulary, CHUNK=chunk, GROUP=config.group, TOP_P_K=restricts, GREEDY=params.all_greedy,
            PROCESSED=params.has_processors, LOGPROBS=params.needs_logprobs, num_warps=8,
        )  # fmt: skip
        found: tuple[torch.Tensor, ...] = (best_id,) * 4
        if restricts:
            found = find_candidates(scores, params, token_index, highest, maxima, config)
        finish_kernel[(rows,)](
            *shared, *found, ids, logprobs, vocabulary, chunks, CHUNK=chunk,
            BLOCK_CHUNKS=triton.next_power_of_2(chunks), CONTENDERS=CONTENDERS,
            TOP_P_K=restricts, LOGPROBS=params.needs_logprobs, num_warps=config.warps if restricts else 1,
        )  # fmt: skip
    if not params.needs_logprobs:
        return SampleOutput(ids)
    if not params.max_top_logprobs:
        return SampleOutput(ids, logprobs)
    top = logits.topk(params.max_top_logprobs, dim=1)
    chosen = logits.gather(1, ids.unsqueeze(1)).float()
    log_sum = chosen - logprobs.unsqueeze(1)
    return SampleOutput(ids, logprobs, top.indices, top.values.float() - log_sum)
