"""How many KV blocks fit: measured on cuda by running the largest step once, set by limits on cpu.

What graphs will take is a guess then (RESERVED_BYTES); what they took is measured once they are captured.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from services.worker.errors import DeviceMemoryError
from services.worker.runner.config import CPU_POOL_BYTES, CPU_POOL_TOKENS

# Kept free for captured graphs, NCCL's and cuBLAS's own buffers and fragmentation.
RESERVED_BYTES = 1 << 30
_LESS = "lower --mem_fraction, or --graph_max_batch_size, or capture none with --disable_cudagraph"


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What the options and the model say about the pool."""

    block_size: int
    bytes_per_block: int
    max_total_token_num: int | None
    mem_fraction: float
    slot_state_bytes: int
    """What the slots' penalty counts may grow to."""


class PoolSize(NamedTuple):
    blocks: int
    peak_bytes: int
    """The most that PyTorch had allocated in the largest step, with next to no pool. 0 on cpu."""


class CaptureCost(NamedTuple):
    """What capturing graphs took on this rank."""

    graph_bytes: int = 0
    seconds: float = 0.0


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that hold `tokens`, the scratch block included."""
    return -(-tokens // block_size) + 1


def cpu_blocks(limits: PoolLimits) -> int:
    if limits.max_total_token_num is not None:
        return blocks_for(limits.max_total_token_num, limits.block_size)
    return min(
        blocks_for(CPU_POOL_TOKENS, limits.block_size), max(2, CPU_POOL_BYTES // limits.bytes_per_block)
    )


def cuda_blocks(limits: PoolLimits, device: torch.device, run_largest_step: Callable[[], None]) -> PoolSize:
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
        return PoolSize(wanted, peak)
    if blocks < 2:
        raise DeviceMemoryError(
            f"no room for KV: weights and one step of the largest batch take {peak >> 20} MiB and others "
            f"{outside >> 20} MiB of the {int(total * limits.mem_fraction) >> 20} MiB that --mem_fraction allows"
        )
    return PoolSize(blocks, peak)


def capture_measured(
    limits: PoolLimits, pool: PoolSize, device: torch.device, capture: Callable[[], None]
) -> CaptureCost:
    """Captures graphs beside the pool. Raises DeviceMemoryError if they leave too little for the largest step."""
    step_bytes = largest_step_bytes(limits, pool, torch.cuda.memory_allocated(device))
    free_before, began = _free_bytes(device), time.perf_counter()
    try:
        capture()
    except torch.cuda.OutOfMemoryError:
        raise DeviceMemoryError(
            f"CUDA graphs do not fit the {free_before >> 20} MiB that are left for them: {_LESS}"
        ) from None
    free = _free_bytes(device)
    cost = CaptureCost(free_before - free, time.perf_counter() - began)
    check_headroom(cost.graph_bytes, free, step_bytes)
    return cost


def largest_step_bytes(limits: PoolLimits, pool: PoolSize, allocated_bytes: int) -> int:
    """What service may yet allocate when weights, the pool and what steps share have taken `allocated_bytes`."""
    static_bytes = allocated_bytes - pool.blocks * limits.bytes_per_block
    return pool.peak_bytes - static_bytes + limits.slot_state_bytes


def check_headroom(graph_bytes: int, free_bytes: int, step_bytes: int) -> None:
    """Raises DeviceMemoryError if graphs left less free than a step of the largest batch takes, before one has to."""
    if free_bytes < step_bytes:
        raise DeviceMemoryError(
            f"CUDA graphs took {graph_bytes >> 20} MiB, where {RESERVED_BYTES >> 20} MiB were reserved, and left "
            f"{free_bytes >> 20} MiB, but one step of the largest batch takes {step_bytes >> 20} MiB: {_LESS}"
        )


def _free_bytes(device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return int(torch.cuda.mem_get_info(device)[0])
