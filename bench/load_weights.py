"""What loading a checkpoint reads: ``python -m bench.load_weights [--layers 1] [--tp 1 2 4] [--json FILE]``.

A checkpoint with rows as long as those of the 8B shape is made in a temporary folder and loaded as the worker does it.
Per number of ranks, for rank 0: the bytes that it keeps; those of the pages of files that its slices lie on; those that
came from the disk into an empty page cache, where the kernel reads ahead; and GB/s of what it keeps, from an empty cache
and from a full one. Then all ranks at once from an empty cache, which they share. On cpu matrices are kept transposed, and
turning them is in the time; how long it takes to load them as they lie, as on a GPU, is told beside it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import save_file

from bench.conditions import conditions, write
from services.worker.layers.build import Build
from services.worker.parallel.group import TensorParallel
from services.worker.runner.config import RunnerConfig
from services.worker.runner.load import load_model, pick_device
from services.worker.weights import Checkpoint

PAGE = mmap.PAGESIZE
HEADS, KV_HEADS, VOCABULARY = 32, 8, 1024


# ---- which pages slices lie on


@dataclass(frozen=True, slots=True)
class Slice:
    """start .. start + count along ``dim`` of a tensor of ``shape`` whose bytes begin at ``offset`` of its file."""

    offset: int
    shape: tuple[int, ...]
    itemsize: int
    dim: int
    start: int
    count: int

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) // self.shape[self.dim] * self.count * self.itemsize


def pages_touched(slices: Iterable[Slice], file_size: int, page: int = PAGE) -> int:
    """How many of a file's pages hold a byte of one of the slices."""
    edges = np.zeros(-(-file_size // page) + 1, np.int64)
    for piece in slices:
        inner = prod(piece.shape[piece.dim + 1 :]) * piece.itemsize
        runs, row = prod(piece.shape[: piece.dim]), piece.shape[piece.dim] * inner
        begins = piece.offset + piece.start * inner + row * np.arange(runs)
        np.add.at(edges, begins // page, 1)
        np.add.at(edges, (begins + piece.count * inner - 1) // page + 1, -1)
    return int((np.cumsum(edges) > 0).sum())


def tensor_offsets(file: Path) -> dict[str, int]:
    """Where each tensor's bytes begin in a safetensors file."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    return {name: 8 + length + at["data_offsets"][0] for name, at in header.items() if name != "__metadata__"}


# ---- the page cache


def evict(files: Iterable[Path]) -> None:
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached_bytes(files: Iterable[Path]) -> int:
    """How much of the files is in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    pages = 0
    for file in files:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            resident = np.zeros(-(-len(mapped) // PAGE), np.uint8)
            address = (ctypes.c_char * len(mapped)).from_buffer(mapped)
            where = ctypes.c_void_p(resident.ctypes.data)
            failed = libc.mincore(ctypes.byref(address), ctypes.c_size_t(len(mapped)), where)
            del address
            if failed:
                raise OSError(ctypes.get_errno(), "mincore")
            pages += int((resident & 1).sum(dtype=np.int64))
    return pages * PAGE


# ---- a checkpoint


def make_checkpoint(folder: Path, hidden: int, layers: int) -> list[Path]:
    """A Llama with one file a layer; all layers' weights are the same."""
    inner, kv = hidden * 7 // 2, hidden * KV_HEADS // HEADS
    generator = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randint(0, 1 << 14, shape, dtype=torch.int16, generator=generator).view(torch.bfloat16)

    layer = {
        "self_attn.q_proj": matrix(hidden, hidden), "self_attn.k_proj": matrix(kv, hidden),
        "self_attn.v_proj": matrix(kv, hidden), "self_attn.o_proj": matrix(hidden, hidden),
        "mlp.gate_proj": matrix(inner, hidden), "mlp.up_proj": matrix(inner, hidden),
        "mlp.down_proj": matrix(hidden, inner),
        "input_layernorm": matrix(hidden), "post_attention_layernorm": matrix(hidden),
    }  # fmt: skip
    files = {"model-ends.safetensors": {"model.embed_tokens.weight": matrix(VOCABULARY, hidden)}}
    files["model-ends.safetensors"] |= {"model.norm.weight": matrix(hidden)}
    for number in range(layers):
        prefix = f"model.layers.{number}."
        named = {f"{prefix}{name}.weight": tensor for name, tensor in layer.items()}
        files[f"model-{number}.safetensors"] = named
    for name, tensors in files.items():
        save_file(tensors, folder / name)
    weight_map = {tensor: name for name, tensors in files.items() for tensor in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": hidden // HEADS,
        "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "max_position_embeddings": 2048, "tie_word_embeddings": True, "eos_token_id": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return [folder / name for name in files]


# ---- loading it


@dataclass
class Loaded:
    seconds: float
    by_file: dict[str, list[Slice]]


def load_rank(folder: Path, rank: int, tp: int, as_they_lie: bool = False) -> Loaded:
    """Run in a process of its own. Without a group: loading needs no other rank."""
    found, read = Loaded(0.0, {}), Checkpoint.read
    at = {n: (file, o) for file in folder.glob("*.safetensors") for n, o in tensor_offsets(file).items()}

    def noted(
        self: Checkpoint, name: str, shape: Any, out: torch.Tensor, dim: int = 0, start: int = 0
    ) -> None:
        file, offset = at[name]
        piece = Slice(offset, tuple(shape), out.element_size(), dim, start, out.shape[dim])
        found.by_file.setdefault(file.name, []).append(piece)
        read(self, name, shape, out, dim, start)

    config = RunnerConfig(str(folder), dtype="bfloat16", cpu_threads=1)
    device = pick_device(config, 0)
    torch.zeros(1, device=device)  # what a GPU's first use takes is not loading
    with ExitStack() as patched:
        patched.enter_context(patch.object(Checkpoint, "read", noted))
        if as_they_lie:
            patched.enter_context(patch.object(Build, "matrix", Build.empty))
        began = time.perf_counter()
        loaded = load_model(config, TensorParallel(rank, tp), device)
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.seconds = time.perf_counter() - began
    del loaded
    return found


def measure(pool: ProcessPoolExecutor, folder: Path, files: list[Path], tp: int) -> dict[str, Any]:
    evict(files)
    left = cached_bytes(files)
    cold = pool.submit(load_rank, folder, 0, tp).result()
    from_disk = cached_bytes(files) - left
    for file in files:
        file.read_bytes()
    warm, lying = (
        min(pool.submit(load_rank, folder, 0, tp, as_they_lie).result().seconds for _ in range(2))
        for as_they_lie in (False, True)
    )
    evict(files)
    began = time.perf_counter()
    ranks = [pool.submit(load_rank, folder, rank, tp) for rank in range(tp)]
    slowest = max(rank.result().seconds for rank in ranks)
    kept = sum(piece.num_bytes for slices in cold.by_file.values() for piece in slices)
    touched = sum(pages_touched(cold.by_file.get(f.name, []), f.stat().st_size) for f in files) * PAGE
    return {
        "tp": tp,
        "kept_mib": round(kept / 2**20, 1),
        "pages_mib": round(touched / 2**20, 1),
        "from_disk_mib": round(from_disk / 2**20, 1),
        "not_evicted_mib": round(left / 2**20, 1),
        "empty_cache_gb_per_s": round(kept / cold.seconds / 1e9, 3),
        "full_cache_gb_per_s": round(kept / warm / 1e9, 3),
        "full_cache_as_they_lie_gb_per_s": round(kept / lying / 1e9, 3),
        "all_ranks_from_disk_mib": round((cached_bytes(files) - left) / 2**20, 1),
        "all_ranks_s": round(slowest, 3),
        "all_ranks_with_processes_s": round(time.perf_counter() - began, 3),
    }


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=1, help="of 416 MiB each with rows of 4096")
    parser.add_argument("--tp", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def rows(arguments: argparse.Namespace, folder: Path, files: list[Path]) -> Iterator[dict[str, Any]]:
    for tp in arguments.tp:
        with ProcessPoolExecutor(tp, mp_context=get_context("spawn")) as pool:
            list(pool.map(abs, range(tp)))
            yield measure(pool, folder, files, tp)


def main() -> None:
    arguments = parse(sys.argv[1:])
    report = conditions("python -m bench.load_weights") | {"rows": []}
    report["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as name:
        files = make_checkpoint(Path(name), arguments.hidden, arguments.layers)
        report["file_mib"] = round(sum(file.stat().st_size for file in files) / 2**20, 1)
        print(f"{report['device']}, {report['file_mib']} MiB in {len(files)} files")
        for row in rows(arguments, Path(name), files):
            report["rows"].append(row)
            print(row, flush=True)
            if arguments.json:
                write(arguments.json, report)


if __name__ == "__main__":
    main()
