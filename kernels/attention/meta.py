"""What the attention kernels need to know about a step's batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Workspace:
    """Partial results of split-KV decode at fixed addresses, so that captured graphs may keep pointing at them.

    One workspace serves every layer of a step, since the layers run one after another on one stream.

    partial:  [max_rows, Hq, max_splits, D] float32, each split's output, normalised by its own sum.
    log_sum:  [max_rows, Hq, max_splits] float32, log2 of each split's sum of exponentials.
    arrivals: [max_rows, Hkv] int32, zero between launches: counts the splits that have finished.
    """

    partial: torch.Tensor
    log_sum: torch.Tensor
    arrivals: torch.Tensor

    @property
    def max_splits(self) -> int:
        return self.partial.shape[2]


def make_workspace(
    max_rows: int,
    num_q_heads: int,
    num_kv_heads: int,
    head_dim: int,
    device: torch.device | str,
    max_splits: int = 32,
) -> Workspace:
    """Allocate the workspace for steps of up to `max_rows` decode rows."""
    return Workspace(
        partial=torch.empty(max_rows, num_q_heads, max_splits, head_dim, dtype=torch.float32, device=device),
        log_sum=torch.empty(max_rows, num_q_heads, max_splits, dtype=torch.float32, device=device),
        arrivals=torch.zeros(max_rows, num_kv_heads, dtype=torch.int32, device=device),
    )


@dataclass(frozen=True)
class AttentionMeta:
    """The rows (sequences) of one step. The first `num_decodes` have one query token each, the others are prefills.

    block_tables:  [R, max_blocks] int32, the cache blocks of each row in order.
    seq_lens:      [R] int32, context length including this step's tokens; 0 marks a padding row.
    query_start:   [R + 1] int32, prefix sums of the rows' query lengths. Decode row r has token r; padding rows among
                   the decodes have none, so chunks follow the real decodes' tokens.
    max_query_len, max_seq_len: host integers, upper bounds over the rows. Kernels choose grids from them and never
                   read `seq_lens` on the host.
    workspace:     needed on CUDA when there are decode rows; see `make_workspace`.
    memo:          what is worked out once for all layers of the step; starts empty.
    """

    block_tables: torch.Tensor
    seq_lens: torch.Tensor
    query_start: torch.Tensor
    num_decodes: int
    max_query_len: int
    max_seq_len: int
    workspace: Workspace | None = None
    memo: dict[Any, Any] = field(default_factory=dict)
