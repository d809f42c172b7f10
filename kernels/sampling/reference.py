"""PyTorch reference of sampling; also what serves requests on CPU, so it skips the work a batch does not need."""

from __future__ import annotations

import torch

from kernels.sampling.noise import REACH, gumbel_noise, row_keys
from kernels.sampling.params import SampleOutput, SamplingTensors

# Rows are drawn in groups of about this many scores, so that temporaries stay in the processor's cache.
GROUP_SCORES = 1 << 18
# Top-p first sorts this many tokens, and more only where they do not hold enough mass.
TOP_P_FIRST_LOOK = 512
TOP_P_GROWTH = 16
# One candidate in this many tokens, or fewer, is worth gathering.
SPARSE_ENOUGH = 4


def unpack_mask(mask: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Bits of `mask` [R, ceil(V / 32)] int32 as bool [R, V]."""
    bits = torch.arange(32, device=mask.device, dtype=torch.int32)
    return ((mask.unsqueeze(-1) >> bits) & 1).flatten(1)[:, :vocabulary].bool()


def process(scores: torch.Tensor, params: SamplingTensors) -> torch.Tensor:
    """Apply bias, allowed tokens and penalties, in this order, to `scores` [R, V] float32 in place."""
    if params.any_logit_bias:
        start, ids, values = params.bias_start, params.bias_ids, params.bias_values
        assert start is not None
        assert ids is not None
        assert values is not None
        rows = torch.repeat_interleave(
            torch.arange(scores.shape[0], device=scores.device), start.diff().long()
        )
        used = slice(int(start[0]), int(start[-1]))
        scores.index_put_((rows, ids[used].long()), values[used], accumulate=True)
    if params.allowed_mask is not None:
        scores.masked_fill_(~unpack_mask(params.allowed_mask, scores.shape[1]), float("-inf"))
    if params.any_penalty:
        assert params.output_counts is not None
        assert params.prompt_mask is not None
        counts = params.output_counts[params.slot]
        emitted = counts > 0
        seen = emitted | params.prompt_mask[params.slot].bool()
        factor = params.repetition.unsqueeze(1)
        scores = torch.where(seen, torch.where(scores > 0, scores / factor, scores * factor), scores)
        scores -= params.frequency.unsqueeze(1) * counts
        scores -= params.presence.unsqueeze(1) * emitted
    return scores


def top_p_threshold(z: torch.Tensor, top_p: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
    """Largest score t of each row such that the tokens with z >= t hold `top_p` of the mass of those >= `floor`.

    z: [N, V]; top_p, floor: [N]. Masses are summed in float64.
    """
    highest = z.amax(1, keepdim=True)

    def mass(scores: torch.Tensor) -> torch.Tensor:
        return torch.exp((scores - highest[: scores.shape[0]]).double()).where(
            scores >= floor.unsqueeze(1), 0.0
        )

    needed = top_p.double() * mass(z).sum(1)
    look = min(TOP_P_FIRST_LOOK, z.shape[1])
    while True:
        descending = z.topk(look, dim=1).values
        below = mass(descending).cumsum(1) < needed.unsqueeze(1)
        if look == z.shape[1] or not bool(below[:, -1].any()):
            index = below.sum(1).clamp_(max=look - 1)
            return descending.gather(1, index.unsqueeze(1)).squeeze(1).maximum(floor)
        look = min(look * TOP_P_GROWTH, z.shape[1])


def thresholds(z: torch.Tensor, params: SamplingTensors, rows: torch.Tensor) -> torch.Tensor:
    """The lowest score each of `rows` may draw, [N], for tempered scores `z` [N, V]."""
    top_p, top_k, min_p = params.top_p[rows], params.top_k[rows].long(), params.min_p[rows]
    floor = z.amax(1) + torch.log(min_p)  # log(0) is -inf: off
    with_k = (top_k > 0) & (top_k < z.shape[1])
    if bool(with_k.any()):
        k = top_k[with_k]
        kth = z[with_k].topk(int(k.max()), dim=1).values.gather(1, (k - 1).unsqueeze(1)).squeeze(1)
        floor[with_k] = floor[with_k].maximum(kth)
    with_p = top_p < 1.0
    if bool(with_p.any()):
        floor[with_p] = top_p_threshold(z[with_p], top_p[with_p], floor[with_p])
    return floor


def draw(z: torch.Tensor, floor: torch.Tensor | None, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Gumbel-max draw from tempered scores `z` [N, V] among tokens with z >= `floor` [N]: ids [N] int64."""
    reachable = z.amax(1) - REACH
    if floor is not None:
        reachable = reachable.maximum(floor)
    candidates = z >= reachable.unsqueeze(1)
    # Noise is the costly part: where few tokens can win, it is computed for those only.
    if int(candidates.sum()) * SPARSE_ENOUGH > candidates.numel():
        ids = torch.arange(z.shape[1], dtype=torch.int32, device=z.device)
        noisy = gumbel_noise(ids, low.unsqueeze(1), high.unsqueeze(1)).add_(z)
        return noisy.masked_fill_(~candidates, float("-inf")).argmax(1)
    rows, columns = candidates.nonzero(as_tuple=True)
    noisy = torch.full_like(z, float("-inf"))
    noisy[rows, columns] = z[rows, columns] + gumbel_noise(columns.int(), low[rows], high[rows])
    return noisy.argmax(1)


def sample(logits: torch.Tensor, params: SamplingTensors, token_index: torch.Tensor) -> SampleOutput:
    """See `kernels.sampling.sample`."""
    scores = logits.float()
    logprobs = torch.log_softmax(scores, dim=-1) if params.needs_logprobs else None
    if params.has_processors:
        scores = process(scores.clone() if scores is logits else scores, params)
    ids = scores.argmax(1)
    if not params.all_greedy:
        low, high = row_keys(params.seed, token_index)
        sampled = (params.temperature > 0).nonzero()[:, 0]
        for rows in sampled.split(max(1, GROUP_SCORES // logits.shape[1])):
            z = scores[rows] * (1.0 / params.temperature[rows]).unsqueeze(1)
            floor = thresholds(z, params, rows) if params.any_top_p_k else None
            ids[rows] = draw(z, floor, low[rows], high[rows])
    if logprobs is None:
        return SampleOutput(ids)
    chosen = logprobs.gather(1, ids.unsqueeze(1)).squeeze(1)
    if not params.max_top_logprobs:
        return SampleOutput(ids, chosen)
    top = logprobs.topk(params.max_top_logprobs, dim=1)
    return SampleOutput(ids, chosen, top.indices, top.values)
