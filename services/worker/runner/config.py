"""What the runner is started with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """The worker's options that concern the model and its device; names follow the options'."""

    model_dir: str
    device: str = "auto"
    """"cuda", "cpu", or "auto": cuda where there is one."""
    dtype: str = "auto"
    """"auto": the checkpoint's on cuda, float32 on cpu."""
    load_format: str = "auto"
    """"auto" reads the checkpoint, "dummy" makes weights up."""
    tp: int = 1
    seed: int = 0
    block_size: int = 16
    max_slots: int = 256
    max_model_len: int | None = None
    """None: as long as the model was made for."""
    max_step_tokens: int = 8192
    max_total_token_num: int | None = None
    """Tokens the KV pool holds; None: measured on cuda, CPU_POOL_TOKENS or CPU_POOL_BYTES on cpu."""
    mem_fraction: float = 0.9
    """The part of the device's memory that weights, one step and the KV pool may use together."""
    cudagraph: bool = True
    graph_max_batch_size: int = 256
    graph_split_batch_size: int = 32
    """Batch sizes up to this each have a graph of their own; above it one every graph_grow_step_size."""
    graph_grow_step_size: int = 16
    peer_memory: bool = True
    """Whether ranks on GPUs sum over memory that they map into one another, where they can."""
    cpu_threads: int | None = None
    """Threads for one rank's arithmetic on cpu; None: the machine's cores over the ranks, less one."""


CPU_POOL_TOKENS = 65536
CPU_POOL_BYTES = 2 << 30
