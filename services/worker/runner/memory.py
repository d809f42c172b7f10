"""How many KV blocks fit: measured on cuda by running the largest step once, set by limits on cpu."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from services.worker.errors import DeviceMemoryError
from services.worker.runner.config import CPU_POOL_BYTES, CPU_POOL_TOKENS

# Kept free for captured graphs, NCCL's and cuBLAS's own buffers and fragmentation.
RESERVED_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What the options and the model say about the pool."""

    block_size: int
    bytes_per_block: int
    max_total_token_num: int | None
    mem_fraction: float
    slot_state_bytes: int
    """What the slots' penalty counts may grow to."""


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold `tokens`, the scratch block included."""
    return -(-tokens // block_size) + 1


def cpu_blocks(limits: PoolLimits) -> int:
    if limits.max_total_token_num is not None:
        return blocks_for(limits.max_total_token_num, limits.block_size)
    return min(
        blocks_for(CPU_POOL_TOKENS, limits.block_size), max(2, CPU_POOL_BYTES // limits.bytes_per_block)
    )


def cuda_blocks(limits: PoolLimits, device: torch.device, run_largest_step: Callable[[], None]) -> int:
    """Runs the largest step and gives the pool what mem_fraction leaves. Raises DeviceMemoryError if too little."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        run_largest_step()
        torch.cuda.synchronize(device)
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceMemoryError(f"one step of the largest batch does not fit the device: {error}") from None
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    outside = total - free - torch.cuda.memory_reserved(device)
    room = int(total * limits.mem_fraction) - peak - outside - limits.slot_state_bytes - RESERVED_BYTES
    blocks = room // limits.bytes_per_block
    if limits.max_total_token_num is not None:
        wanted = blocks_for(limits.max_total_token_num, limits.block_size)
        if wanted > blocks:
            raise DeviceMemoryError(
                f"--max_total_token_num {limits.max_total_token_num} needs {wanted * limits.bytes_per_block >> 20} MiB "
                f"of KV, but {max(room, 0) >> 20} MiB are left beside weights and activations"
            )
        return wanted
    if blocks < 2:
        raise DeviceMemoryError(
            f"no room for KV: weights and one step of the largest batch take {peak >> 20} MiB and others "
            f"{outside >> 20} MiB of the {int(total * limits.mem_fraction) >> 20} MiB that --mem_fraction allows"
        )
    return blocks
