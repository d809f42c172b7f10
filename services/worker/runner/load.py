"""From a RunnerConfig to one rank's loaded, measured and captured model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernels.attention import make_workspace
from kernels.linear import variant_sizes
from kernels.rank_sum import FEW_TOKENS
from services.common.cores import threads_per_rank, usable_cores
from services.worker.errors import ConfigError
from services.worker.layers.attention import KVPool, kv_bytes_per_block, local_kv_heads
from services.worker.layers.build import Build
from services.worker.models.config import DTYPES, ModelConfig
from services.worker.models.llama import LlamaForCausalLM
from services.worker.models.register import load_config, model_class
from services.worker.parallel.group import TensorParallel
from services.worker.runner.config import RunnerConfig
from services.worker.runner.dynamic_rope import RopeRows, has_long_prompts
from services.worker.runner.interface import RunnerInfo
from services.worker.runner.memory import (
    CaptureCost,
    PoolLimits,
    PoolSize,
    capture_measured,
    cpu_blocks,
    cuda_blocks,
)
from services.worker.runner.model_runner import ModelRunner
from services.worker.runner.plan import PrefillChunk, SlotSampling, SlotStart, StepPlan
from services.worker.runner.shapes import (
    MAX_CHUNKS,
    SMALL_MIXED_STEP,
    decode_sizes,
    least_mixed_step,
    mixed_shapes,
)
from services.worker.sampling.history import PenaltyCounts
from services.worker.weights import open_weights


def pick_device(config: RunnerConfig, rank: int) -> torch.device:
    """Raises ConfigError if cuda is asked for and there are fewer GPUs than ranks."""
    if config.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu or cuda, not {config.device!r}")
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    found = torch.cuda.device_count()
    if found < config.tp:
        raise ConfigError(f"--tp {config.tp} needs {config.tp} GPUs, found {found}")
    return torch.device("cuda", rank)


def pick_dtype(config: RunnerConfig, model: ModelConfig, device: torch.device) -> torch.dtype:
    name = config.dtype
    if name == "auto":
        name = "float32" if device.type == "cpu" else model.dtype
    if name not in DTYPES:
        raise ConfigError(f"dtype must be auto or one of {', '.join(DTYPES)}, not {config.dtype!r}")
    return getattr(torch, name)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One rank's weights on its device, before memory was given to anything else."""

    model: LlamaForCausalLM
    device: torch.device
    dtype: torch.dtype
    tp: TensorParallel
    max_model_len: int
    num_kv_heads: int
    """This rank's."""


def load_model(config: RunnerConfig, tp: TensorParallel, device: torch.device) -> LoadedModel:
    """Reads the configuration and this rank's weights. Raises ModelLoadError."""
    model_config = load_config(Path(config.model_dir))
    max_model_len = config.max_model_len or model_config.max_position
    if max_model_len > model_config.max_position:
        raise ConfigError(
            f"--max_req_total_len {max_model_len} is more than the {model_config.max_position} positions of the model"
        )
    dtype = pick_dtype(config, model_config, device)
    if device.type == "cpu":
        torch.set_num_threads(config.cpu_threads or threads_per_rank(usable_cores(), config.tp))
    source = open_weights(Path(config.model_dir), config.load_format, config.seed)
    model = model_class(model_config.architecture)(model_config, Build(source, device, dtype, tp))
    num_kv_heads = local_kv_heads(model_config.num_kv_heads, tp)
    return LoadedModel(model, device, dtype, tp, max_model_len, num_kv_heads)


def make_runner(config: RunnerConfig, loaded: LoadedModel) -> tuple[ModelRunner, RunnerInfo]:
    """Sizes the pool and captures the graphs. Every rank calls it; they agree on the smallest pool."""
    model_config = loaded.model.config
    limits = pool_limits(config, loaded)
    device, cost = loaded.device, CaptureCost()
    if device.type == "cuda":
        pool = cuda_blocks(limits, device, lambda: run_largest_step(config, loaded))
    else:
        pool = PoolSize(cpu_blocks(limits), 0)
    blocks = loaded.tp.smallest(pool.blocks, device)
    runner = new_runner(config, loaded, blocks)
    if device.type == "cuda" and config.cudagraph:
        pool = pool._replace(blocks=blocks)
        cost = capture_measured(limits, pool, device, lambda: capture_graphs(config, loaded, runner))
    return runner, RunnerInfo(
        num_blocks=blocks,
        block_size=config.block_size,
        max_slots=config.max_slots,
        max_model_len=min(loaded.max_model_len, (blocks - 1) * config.block_size),
        max_step_tokens=config.max_step_tokens,
        vocab_size=model_config.vocab_size,
        eos_ids=model_config.eos_ids,
        architecture=model_config.architecture,
        dtype=str(loaded.dtype).removeprefix("torch."),
        device=str(device),
        num_params=model_config.num_params,
        graph_bytes=cost.graph_bytes,
        capture_seconds=cost.seconds,
        least_mixed_tokens=least_mixed_tokens(loaded),
        max_shared_prompt=model_config.rope.max_position
        if has_long_prompts(model_config.rope, loaded.max_model_len)
        else None,
    )


def least_mixed_tokens(loaded: LoadedModel) -> int:
    """On a cpu time grows with every token."""
    if loaded.device.type != "cuda":
        return SMALL_MIXED_STEP
    return least_mixed_step(loaded.model.config.params_per_layer / loaded.tp.size)


def capture_graphs(config: RunnerConfig, loaded: LoadedModel, runner: ModelRunner) -> None:
    sizes = decode_sizes(
        config.graph_max_batch_size,
        config.graph_split_batch_size,
        config.graph_grow_step_size,
        config.max_slots,
    )
    most = max(sizes, default=0)
    shapes = mixed_shapes(config.max_step_tokens, loaded.max_model_len, most, least_mixed_tokens(loaded))
    runner.capture_graphs(sizes, shapes)


def pool_limits(config: RunnerConfig, loaded: LoadedModel) -> PoolLimits:
    model = loaded.model.config
    return PoolLimits(
        block_size=config.block_size,
        bytes_per_block=kv_bytes_per_block(
            model.num_layers, config.block_size, loaded.num_kv_heads, model.head_dim, loaded.dtype.itemsize
        ),
        max_total_token_num=config.max_total_token_num,
        mem_fraction=config.mem_fraction,
        slot_state_bytes=config.max_slots * PenaltyCounts.bytes_per_slot(model.vocab_size),
    )


def new_runner(config: RunnerConfig, loaded: LoadedModel, num_blocks: int) -> ModelRunner:
    model, device = loaded.model.config, loaded.device
    kv = KVPool(
        model.num_layers,
        num_blocks,
        config.block_size,
        loaded.num_kv_heads,
        model.head_dim,
        loaded.dtype,
        device,
    )
    workspace = None
    if device.type == "cuda":
        num_q_heads = model.num_q_heads // loaded.tp.size
        rows = config.max_slots + MAX_CHUNKS
        workspace = make_workspace(rows, num_q_heads, loaded.num_kv_heads, model.head_dim, device)
    return ModelRunner(
        loaded.model,
        kv,
        RopeRows(model.rope, loaded.max_model_len, config.max_step_tokens, config.max_slots, device),
        workspace,
        config.max_slots,
        loaded.max_model_len,
        config.max_step_tokens,
    )


# Each kind of sampling has kernels of its own: by the draw, by what changes the logits before it, by what is told after.
_DRAWS = (
    SlotSampling(),
    SlotSampling(temperature=1.0),
    SlotSampling(temperature=1.0, top_p=0.9, top_k=50),
)
_PROCESSORS: tuple[dict[str, Any], ...] = tuple(
    {name: value for name, value in entries if value}
    for entries in product(
        (("presence_penalty", 0.0), ("presence_penalty", 0.1)),
        (("allowed_token_ids", None), ("allowed_token_ids", [0, 1])),
        (("logit_bias", None), ("logit_bias", {0: 1.0})),
    )
)


def kinds_of_sampling() -> list[SlotSampling]:
    """One of each kind of draw alone, with something that changes the logits, with log-probabilities, and with both.

    What changes the logits runs before the draw and does not depend on it: its combinations come once.
    """
    changed = [replace(_DRAWS[0], **processors) for processors in _PROCESSORS]
    draws = [
        replace(draw, **processors, logprobs=logprobs)
        for draw in _DRAWS
        for processors in (_PROCESSORS[0], _PROCESSORS[-1])
        for logprobs in (None, 1)
    ]
    return draws + changed[1:-1]


def run_largest_step(config: RunnerConfig, loaded: LoadedModel) -> None:
    """The steps that need the most memory, and one of each kind that service will see, over the scratch block alone.

    The most sampled rows; the longest prompt, scored; then those of `run_every_kind`.
    """
    runner = new_runner(config, loaded, num_blocks=1)
    rows = min(config.max_slots, config.max_step_tokens)
    lengths = [min(config.max_step_tokens // rows, loaded.max_model_len)] * rows
    runner.launch(_scratch_step(lengths, [], _DRAWS[-1])).result()
    longest = _scratch_step([min(config.max_step_tokens, loaded.max_model_len)], [], SlotSampling())
    runner.launch(longest).result()
    longest.prefills = [replace(c, scored_ids=c.token_ids, num_top=1) for c in longest.prefills]
    runner.launch(longest).result()
    run_every_kind(runner, config, loaded)


def run_every_kind(runner: ModelRunner, config: RunnerConfig, loaded: LoadedModel) -> None:
    """Steps for which the kernels have variants of their own. Compiled in service, one would stall every stream.

    Captured graphs do not stand in for it: they may be off or few, and large steps and rare sampling never use them.
    """
    # Products choose by their rows: all tokens in most layers, those that sample in the last and in the logits.
    sizes = {*variant_sizes(loaded.device)}
    if loaded.tp.size > 1:
        sizes |= {FEW_TOKENS, FEW_TOKENS + 1}  # by which sums over ranks choose
    for size in sorted(sizes):
        tokens = min(size, config.max_step_tokens)
        rows = min(tokens, config.max_slots)
        lengths = [min(tokens - rows + 1, loaded.max_model_len), *[1] * (rows - 1)]
        runner.launch(_scratch_step(lengths, [], SlotSampling())).result()
    # Attention to a prompt's chunk chooses by the longest context.
    longest = loaded.max_model_len
    for length in sorted({*(1 << bits for bits in range(1, longest.bit_length())), longest}):
        plan = _scratch_step([1], [], SlotSampling())
        plan.prefills = [replace(plan.prefills[0], start=length - 1)]
        runner.launch(plan).result()
    if longest > 1:
        runner.launch(_scratch_step([1], [], SlotSampling())).result()
        runner.launch(StepPlan(0, decode_slots=[0])).result()
    for sampling in kinds_of_sampling():
        runner.launch(_scratch_step([1], [], sampling)).result()
    if config.max_slots > 1 and config.max_step_tokens > 1 and loaded.max_model_len > 1:
        runner.launch(_scratch_step([1, 1], [], SlotSampling())).result()
        runner.launch(_scratch_step([1], [1], SlotSampling())).result()


def _scratch_step(lengths: list[int], decode_slots: list[int], sampling: SlotSampling) -> StepPlan:
    """Prompts of these lengths in slots 0, 1, ..., beside decodes of slots that have their prompts."""
    plan = StepPlan(0, starts=[SlotStart(slot, sampling) for slot in range(len(lengths))])
    plan.prefills = [
        PrefillChunk(slot, 0, np.zeros(length, np.int32), samples=True) for slot, length in enumerate(lengths)
    ]
    plan.decode_slots = decode_slots
    return plan
