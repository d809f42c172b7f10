"""The model alone on a GPU: ``python -m bench.gpu_smoke [--shapes qwen3-0.6b llama-3-8b] [--batches 1 32 256]``.

1. Small models of every family against transformers on the same GPU: logits in float32 and bfloat16.
2. Per shape (dummy weights): start-up times; prefill time; ms per decode step through the Runner with the next step
   launched before the last is read, at each batch size; host time per step; share of the time that the GPU is
   busy, and where it goes, from torch.profiler; greedy tokens with and without captured graphs.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bench import shapes
from bench.driver import DecodeBatch
from kernels.attention import AttentionMeta, make_workspace
from services.worker.layers.attention import KVPool, StepMeta
from services.worker.layers.rope import rope_table
from services.worker.parallel.group import TensorParallel
from services.worker.runner.config import RunnerConfig
from services.worker.runner.interface import Runner
from services.worker.runner.load import LoadedModel, load_model, pick_device
from services.worker.runner.plan import SlotSampling
from services.worker.runner.start import start_runner

FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 20},
    "qwen2": {},
    "qwen3": {"head_dim": 128},
}


def full_logits(loaded: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of one prompt int64 [T], through the paged pool, in two chunks of prefill and one decode."""
    model, device, block = loaded.model.config, loaded.device, 16
    length = len(ids)
    blocks = -(-length // block)
    kv = KVPool(model.num_layers, blocks + 1, block, model.num_kv_heads, model.head_dim, loaded.dtype, device)
    table = torch.arange(1, blocks + 1, dtype=torch.int32, device=device)[None]
    workspace = make_workspace(1, model.num_q_heads, model.num_kv_heads, model.head_dim, device)
    cos_sin = rope_table(model.rope, length, device)
    rows = []
    for start, stop in ((0, length // 2), (length // 2, length - 1), (length - 1, length)):
        positions = torch.arange(start, stop, device=device)
        meta = AttentionMeta(
            block_tables=table,
            seq_lens=torch.tensor([stop], dtype=torch.int32, device=device),
            query_start=torch.tensor([0, stop - start], dtype=torch.int32, device=device),
            num_decodes=int(stop - start == 1),
            max_query_len=stop - start,
            max_seq_len=stop,
            workspace=workspace,
        )
        step = StepMeta(block + positions, cos_sin, meta)
        hidden = loaded.model.forward(ids[start:stop], positions, kv, step)
        rows.append(loaded.model.logits(hidden))
    return torch.cat(rows)


@torch.inference_mode()
def compare_with_transformers(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    from tests.fakes.tiny_model import make_model

    print("\n## logits against transformers (largest difference / largest logit; same argmax)")
    torch.backends.cuda.matmul.allow_tf32 = False
    for family, overrides in FAMILIES.items():
        model_dir = make_model(folder / family, family, hidden_size=256, num_hidden_layers=4, **overrides)
        ids = torch.randint(0, 448, (123,), generator=torch.Generator().manual_seed(1)).cuda()
        exact = (
            AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64).cuda()(ids[None]).logits[0]
        )
        for dtype in ("float32", "bfloat16"):
            config = RunnerConfig(str(model_dir), device="cuda", dtype=dtype)
            ours = full_logits(load_model(config, TensorParallel(), pick_device(config, 0)), ids)
            their_model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, dtype)).cuda()
            theirs = their_model(ids[None]).logits[0]
            print(f"{family:8} {dtype:9} ours {_error(ours, exact)}   transformers {_error(theirs, exact)}")


def _error(logits: torch.Tensor, exact: torch.Tensor) -> str:
    worst = float((logits.double() - exact).abs().max() / exact.abs().max())
    same = int((logits.argmax(-1) == exact.argmax(-1)).sum())
    return f"{worst:.1e} ({same}/{len(exact)} same)"


def profile_decode(batch: DecodeBatch, steps: int, rows: int) -> None:
    """Where a decode step's GPU time goes, and how much of the time the GPU is busy."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        batch.decode(steps)
    kernels = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in profiler.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    if not kernels:
        print("no kernels in the trace")
        return
    # The first and last steps start and end the pipeline: the middle is the steady state.
    low = kernels[0][0] + (kernels[-1][1] - kernels[0][0]) * 0.2
    high = kernels[0][0] + (kernels[-1][1] - kernels[0][0]) * 0.8
    busy, reached = 0.0, low
    for start, end, _ in kernels:
        start, end = max(start, reached), min(end, high)
        if end > start:
            busy += end - start
            reached = end
    totals: dict[str, tuple[float, int]] = {}
    for start, end, name in kernels:
        time_us, count = totals.get(name, (0.0, 0))
        totals[name] = (time_us + end - start, count + 1)
    print(f"   GPU busy {busy / (high - low):.1%} of steady decode at batch {rows}")
    for name, (time_us, count) in sorted(totals.items(), key=lambda item: -item[1][0])[:16]:
        print(f"   {time_us / steps:9.1f} us/step {count / steps:7.1f} x  {name[:100]}")


def bench_batch(runner: Runner, rows: int, context: int, steps: int, traced: bool) -> list[list[int]]:
    batch = DecodeBatch(runner, rows, context, steps + 96, SlotSampling())
    first = batch.prefill()
    again = min(batch.prefill() for _ in range(3 if rows == 1 else 1))
    batch.decode(10)
    timings = batch.decode(steps)
    host = statistics.median(timings.host)
    print(
        f"batch {rows:3} context {context}: {timings.step * 1e3:7.3f} ms/step, {rows / timings.step:9,.0f} tokens/s; "
        f"launch() median {host * 1e3:.3f} ms max {max(timings.host) * 1e3:.3f}; "
        f"prefill {again * 1e3:.1f} ms ({rows * context / again:,.0f} tokens/s; first {first * 1e3:.1f} ms)"
    )
    for name, sampling in (
        ("temperature", SlotSampling(temperature=0.8, seed=1)),
        ("top-p", SlotSampling(temperature=0.8, top_p=0.9, top_k=50, seed=1)),
        ("penalty", SlotSampling(temperature=0.8, frequency_penalty=0.5, seed=1)),
        ("logprobs", SlotSampling(logprobs=5)),
    ):
        other = DecodeBatch(runner, rows, context, steps + 96, sampling)
        other.prefill()
        other.decode(5)
        print(f"   {name:12} {other.decode(32).step * 1e3:7.3f} ms/step")
    if traced:
        batch.prefill()
        batch.decode(4)
        profile_decode(batch, 24, rows)
    return timings.tokens


def bench_shape(name: str, folder: Path, arguments: argparse.Namespace) -> None:
    model_dir = folder / name
    shapes.write(name, model_dir)
    config = RunnerConfig(
        str(model_dir),
        device="cuda",
        load_format="dummy",
        tp=arguments.tp,
        mem_fraction=arguments.mem_fraction,
    )
    print(f"\n## {name}, tp {arguments.tp}, bfloat16, dummy weights")
    tokens: dict[bool, dict[int, list[list[int]]]] = {}
    for graphs in (True, False):
        began = time.perf_counter()
        runner = start_runner(replace(config, cudagraph=graphs))
        took = time.perf_counter() - began
        info = runner.info
        print(
            f"{'captured graphs' if graphs else 'eager'}: started in {took:.1f} s, {info.num_blocks} blocks"
        )
        tokens[graphs] = {
            rows: bench_batch(
                runner, rows, arguments.context, arguments.steps, graphs and not arguments.no_trace
            )
            for rows in (arguments.batches if graphs else arguments.batches[:1])
        }
        runner.close()
        del runner
        torch.cuda.empty_cache()
    rows = arguments.batches[0]
    same = sum(a == b for a, b in zip(tokens[True][rows], tokens[False][rows], strict=True))
    print(f"graph and eager greedy tokens agree in {same} of {len(tokens[True][rows])} steps at batch {rows}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="*", default=["qwen3-0.6b", "llama-3-8b"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--mem_fraction", type=float, default=0.8)
    parser.add_argument("--no_trace", action="store_true")
    parser.add_argument("--no_compare", action="store_true")
    arguments = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"commit {commit.stdout.strip() or 'unknown'}"
    )
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.no_compare:
            compare_with_transformers(Path(folder))
        for name in arguments.shapes:
            bench_shape(name, Path(folder), arguments)


if __name__ == "__main__":
    main()
