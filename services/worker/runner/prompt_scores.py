"""Log-probabilities of a step's prompt ids, from the hidden states of the positions before them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from services.worker.models.llama import LlamaForCausalLM
from services.worker.runner.plan import StepPlan
from services.worker.runner.staging import Array, upload

# Logits in memory at a time: 128 MiB in float32, where all of a long chunk's would be gigabytes.
SLICE_LOGITS = 1 << 25


class PromptScoreTensors(NamedTuple):
    """As PromptScores of plan.py, on the device."""

    logprobs: Tensor
    ranks: Tensor
    top_ids: Tensor
    top_logprobs: Tensor


def score_prompts(model: LlamaForCausalLM, hidden: Tensor, plan: StepPlan) -> PromptScoreTensors:
    """hidden [T, H]: the final hidden states of the step's tokens. Every rank must call it: logits are gathered."""
    rows, ids = (upload(values, hidden.device) for values in scored_rows(plan))
    num_top = max(chunk.num_top for chunk in plan.prefills if len(chunk.scored_ids))
    num_rows = max(1, SLICE_LOGITS // model.config.vocab_size)
    slices = [
        _score(model.logits(hidden.index_select(0, part)).float(), targets, num_top)
        for part, targets in zip(rows.split(num_rows), ids.split(num_rows), strict=True)
    ]
    return PromptScoreTensors(*map(torch.cat, zip(*slices, strict=True)))


def scored_rows(plan: StepPlan) -> tuple[Array, Array]:
    """The rows among the step's tokens that scored ids follow, and those ids: int64 [N] each."""
    first = len(plan.decode_slots)
    rows, ids = [], []
    for chunk in plan.prefills:
        at = first + chunk.first_scored
        rows.append(np.arange(at, at + len(chunk.scored_ids)))
        ids.append(chunk.scored_ids)
        first += len(chunk.token_ids)
    return np.concatenate(rows), np.concatenate(ids).astype(np.int64)


def _score(logits: Tensor, targets: Tensor, num_top: int) -> PromptScoreTensors:
    """logits float32 [n, V], targets int64 [n]."""
    log_sum = logits.logsumexp(1)
    chosen = logits.gather(1, targets.unsqueeze(1))
    ranks = (logits > chosen).sum(1, dtype=torch.int32) + 1
    top = logits.topk(min(num_top, logits.shape[1]), dim=1)
    return PromptScoreTensors(
        chosen.squeeze(1) - log_sum, ranks, top.indices.int(), top.values - log_sum.unsqueeze(1)
    )
