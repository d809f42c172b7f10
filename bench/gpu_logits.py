"""Logits of small models of every family against transformers on the same device: ``python -m bench.gpu_logits``.

A prompt of 123 tokens goes through the paged pool in two chunks and one decode. Ours and transformers' are compared with
transformers in float64: in each type ours may be no further from it than rounding takes them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bench.conditions import conditions, write
from kernels.attention import AttentionMeta, make_workspace
from services.worker.layers.attention import KVPool, StepMeta
from services.worker.layers.rope import rope_table
from services.worker.parallel.group import TensorParallel
from services.worker.runner.config import RunnerConfig
from services.worker.runner.load import LoadedModel, load_model, pick_device
from tests.fakes.tiny_model import make_model

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 20},
    "qwen2": {},
    "qwen3": {"head_dim": 128},
}
# The tests' own deviation of 0.3 makes rounding errors grow from layer to layer, in transformers' results too.
SIZES: dict[str, Any] = {"hidden_size": 256, "num_hidden_layers": 4, "initializer_range": 0.06}
# Largest difference over the largest logit: some roundings of the type's last bit.
BOUNDS = {"float32": 1e-5, "bfloat16": 3e-2}


def full_logits(loaded: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of one prompt int64 [T], through the paged pool, in two chunks of prefill and one decode."""
    model, device, block = loaded.model.config, loaded.device, 16
    length = len(ids)
    blocks = -(-length // block)
    kv = KVPool(model.num_layers, blocks + 1, block, model.num_kv_heads, model.head_dim, loaded.dtype, device)
    table = torch.arange(1, blocks + 1, dtype=torch.int32, device=device)[None]
    workspace = None
    if device.type == "cuda":
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
def compare(folder: Path, family: str, dtype: str) -> dict[str, Any]:
    model_dir = make_model(folder / f"{family}-{dtype}", family, **SIZES, **FAMILIES[family])
    config = RunnerConfig(str(model_dir), dtype=dtype)
    device = pick_device(config, 0)
    ids = torch.randint(0, 448, (123,), generator=torch.Generator().manual_seed(1)).to(device)

    def theirs(name: str) -> torch.Tensor:
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, name)).to(device)
        return model(ids[None]).logits[0].double()

    exact = theirs("float64")
    ours = full_logits(load_model(config, TensorParallel(), device), ids).double()
    row: dict[str, Any] = {"family": family, "dtype": dtype, "tokens": len(ids)}
    for name, logits in (("ours", ours), ("transformers", theirs(dtype))):
        row[f"{name}_error"] = float((logits - exact).abs().max() / exact.abs().max())
        row[f"{name}_same_argmax"] = int((logits.argmax(-1) == exact.argmax(-1)).sum())
    return row | {"ok": row["ours_error"] < BOUNDS[dtype]}


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--json", type=Path)
    return parser.parse_args(words)


def main() -> int:
    arguments = parse(sys.argv[1:])
    torch.backends.cuda.matmul.allow_tf32 = False
    rows: list[dict[str, Any]] = []
    report = conditions("python -m bench.gpu_logits") | {"bounds": BOUNDS, "rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        for family in arguments.families:
            for dtype in BOUNDS:
                row = compare(Path(folder), family, dtype)
                rows.append(row)
                print(
                    f"{'ok' if row['ok'] else 'WRONG':5} {family:8} {dtype:9} largest difference / largest logit: "
                    f"ours {row['ours_error']:.1e}, transformers {row['transformers_error']:.1e}; same argmax: "
                    f"ours {row['ours_same_argmax']}, transformers {row['transformers_same_argmax']} of {row['tokens']}",
                    flush=True,
                )
                if arguments.json:
                    write(arguments.json, report)
    return int(not all(row["ok"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
