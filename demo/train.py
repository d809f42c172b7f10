"""Training: a plain loop over generated, packed rows; bf16 on an NVIDIA GPU, float32 on a CPU.

`python -m demo.train` trains and writes the Hugging Face files. The data depend on the seed alone: shard
`i` of the stream is a function of (seed, i), whichever process makes it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from demo.data.core import Case
from demo.data.mix import training_cases
from demo.network import Network, Shape, block_mask, dense_mask
from demo.optimizer import Muon
from demo.render import MODEL_DIR, Encoder, pack

Shard = dict[str, np.ndarray]


def make_shard(tokenizer: Tokenizer, seed: int, index: int, rows: int, length: int) -> Shard:
    """Rows packed from a case stream of their own."""
    encoder = Encoder(tokenizer)
    cases = training_cases(seed * 1_000_003 + index)

    def batches() -> Iterator[list[Case]]:
        while True:
            yield list(itertools.islice(cases, 64))

    return pack((document for batch in batches() for document in encoder.encode(batch)), rows, length)


def _produce(
    path: Path, seed: int, first: int, stride: int, rows: int, length: int, out: Queue[Shard]
) -> None:
    tokenizer = Tokenizer.from_file(str(path))
    for index in itertools.count(first, stride):
        out.put(make_shard(tokenizer, seed, index, rows, length))


def shards(args: argparse.Namespace) -> Iterator[Shard]:
    """The stream of shards in order of their index, made by `args.workers` processes."""
    path = args.out / "tokenizer.json"
    if args.workers == 0:
        tokenizer = Tokenizer.from_file(str(path))
        for index in itertools.count():
            yield make_shard(tokenizer, args.seed, index, args.rows, args.length)
    context = multiprocessing.get_context("spawn")
    queues: list[Queue[Shard]] = [context.Queue(4) for _ in range(args.workers)]
    for worker, queue in enumerate(queues):
        arguments = (path, args.seed, worker, args.workers, args.rows, args.length, queue)
        context.Process(target=_produce, args=arguments, daemon=True).start()
    for queue in itertools.cycle(queues):
        yield queue.get()


def repeated(stream: Iterator[Shard], repeats: int, delay: int) -> Iterator[Shard]:
    """Each shard `repeats` times, the uses about `delay` shards apart: for when training outruns the generator."""
    if repeats == 1:
        yield from stream
        return
    pending: list[tuple[int, Shard, int]] = []  # (when, shard, uses left), `when` rising
    for number, shard in enumerate(stream):
        yield shard
        pending.append((number + delay, shard, repeats - 1))
        while pending and pending[0][0] <= number:
            _, again, left = pending.pop(0)
            yield again
            if left > 1:
                pending.append((number + delay, again, left - 1))


def to_device(shard: Shard, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(ids, document, chosen positions, labels); the positions are padded to a fixed number, so shapes never change."""
    ids = torch.from_numpy(shard["ids"].astype(np.int64))
    target = torch.from_numpy(shard["target"])
    positions = target[:, 1:].reshape(-1).nonzero().flatten()
    width = ids.shape[1]
    positions = positions // (width - 1) * width + positions % (width - 1)
    capacity = ids.numel() // 2
    chosen = torch.zeros(capacity, dtype=torch.int64)
    labels = torch.full((capacity,), -100)
    count = min(capacity, len(positions))
    chosen[:count] = positions[:count]
    labels[:count] = ids.flatten()[positions[:count] + 1]
    tensors = (ids, torch.from_numpy(shard["document"].astype(np.int32)), chosen, labels)
    if device.type == "cpu":
        return tensors
    return tuple(tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors)  # type: ignore[return-value]


def learning_rate(step: int, steps: int, warmup: int = 100, decay: float = 0.6) -> float:
    """Factor of the peak rate: up, flat, then down to zero over the last `decay` of the steps."""
    return min(1.0, (step + 1) / warmup, (steps - step) / (steps * decay))


def optimizers(network: Network, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in network.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in network.named_parameters() if p.ndim != 2 or "embed" in name]
    fused = next(network.parameters()).is_cuda
    adam = torch.optim.AdamW(rest, lr=args.embedding_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)
    if args.adam:
        return [
            adam,
            torch.optim.AdamW(
                matrices, lr=args.embedding_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=fused
            ),
        ]
    return [adam, Muon(matrices, rate=args.matrix_rate, weight_decay=args.weight_decay)]


def train(args: argparse.Namespace, shape: Shape) -> Network:
    """Runs the loop. Prints tokens/s and the mean loss as it goes."""
    torch.manual_seed(args.seed)
    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    torch.set_float32_matmul_precision("high")
    network = Network(shape).to(device)
    optimizing = optimizers(network, args)
    base = [group["lr"] for optimizer in optimizing for group in optimizer.param_groups]
    run: Any = torch.compile(network) if on_gpu else network
    stream = repeated(shards(args), args.repeats, args.delay)
    began, seen, total = time.perf_counter(), 0, torch.zeros((), device=device)
    for step in range(args.steps):
        factor = learning_rate(step, args.steps)
        groups = [group for optimizer in optimizing for group in optimizer.param_groups]
        for group, rate in zip(groups, base, strict=True):
            group["lr"] = rate * factor
        ids, document, chosen, labels = to_device(next(stream), device)
        mask = block_mask(document) if on_gpu else dense_mask(document)
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            loss = run(ids, mask, chosen, labels)
        loss.backward()
        for optimizer in optimizing:
            optimizer.step()
            optimizer.zero_grad()
        seen += ids.numel()
        total += loss.detach()
        if (step + 1) % args.log_every == 0:
            elapsed = time.perf_counter() - began
            print(
                f"step {step + 1} loss {total.item() / args.log_every:.4f} tokens {seen / 1e6:.1f}M {seen / elapsed / 1e6:.2f}M/s {elapsed:.0f}s",
                flush=True,
            )
            total.zero_()
        if args.max_seconds and time.perf_counter() - began > args.max_seconds:
            print(f"stopped after {args.max_seconds} s at step {step + 1}", flush=True)
            break
    return network


def save_model(network: Network, tokenizer: Tokenizer, directory: Path) -> None:
    """Writes config.json, generation_config.json and model.safetensors in bf16."""
    directory.mkdir(parents=True, exist_ok=True)
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    config = network.shape.hugging_face_config(end, pad)
    generation = {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.95,
        "eos_token_id": [end, pad],
        "pad_token_id": pad,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    weights = {
        name: p.detach().to("cpu", torch.bfloat16).contiguous() for name, p in network.named_parameters()
    }
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=32, help="rows per step")
    parser.add_argument("--length", type=int, default=4096, help="tokens per row")
    parser.add_argument(
        "--workers", type=int, default=15, help="processes that generate data; 0 generates in this one"
    )
    parser.add_argument("--repeats", type=int, default=2, help="times that each shard is used")
    parser.add_argument("--delay", type=int, default=400, help="shards between two uses of one")
    parser.add_argument("--matrix_rate", type=float, default=0.02)
    parser.add_argument("--embedding_rate", type=float, default=0.003)
    parser.add_argument("--weight_decay", type=float, default=0.05)
    parser.add_argument("--adam", action="store_true", help="AdamW for the matrices too, instead of Muon")
    parser.add_argument("--hidden", type=int, default=Shape.hidden_size)
    parser.add_argument("--layers", type=int, default=Shape.num_hidden_layers)
    parser.add_argument("--heads", type=int, default=Shape.num_attention_heads)
    parser.add_argument("--intermediate", type=int, default=Shape.intermediate_size)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--log_every", type=int, default=100)
    parser.add_argument("--max_seconds", type=float, default=0, help="stop early, for comparisons")
    parser.add_argument(
        "--out", type=Path, default=MODEL_DIR, help="holds tokenizer.json; the model goes there too"
    )
    return parser.parse_args(argv)


def main() -> None:
    args = parse_arguments()
    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    shape = Shape(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=args.hidden, num_hidden_layers=args.layers,
        num_attention_heads=args.heads, intermediate_size=args.intermediate,
    )  # fmt: skip
    network = train(args, shape)
    print(json.dumps({"parameters": sum(p.numel() for p in network.parameters()), **asdict(shape)}))
    save_model(network, tokenizer, args.out)


if __name__ == "__main__":
    main()
