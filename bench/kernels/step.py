"""The layers of a whole decode step as one captured graph, which is what the single kernels are for."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bench.kernels.linear import DEVICE, EPS
from bench.kernels.measure import Group, Variant
from kernels.attention import AttentionMeta, make_workspace, paged_attention
from kernels.linear import linear, linear_add, norm_linear, norm_linear_silu_and_mul
from kernels.norm import rms_norm
from kernels.rope_kv import rope_and_store
from kernels.sampling import SamplingTensors, sample

# layers, hidden, intermediate, query heads, KV heads, head size, vocabulary
MODELS = {"8b": (32, 4096, 14336, 32, 8, 128, 128256), "0.6b": (28, 1024, 3072, 16, 8, 128, 151936)}
BATCHES = (
    ("8b", 1, 400),
    ("8b", 16, 1152),
    ("8b", 32, 1152),
    ("8b", 256, 1152),
    ("0.6b", 1, 300),
    ("0.6b", 256, 1152),
)


@dataclass
class Layer:
    qkv: torch.Tensor
    o: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor


@dataclass
class Model:
    layers: list[Layer]
    norm: torch.Tensor
    head: torch.Tensor
    cos_sin: torch.Tensor


@dataclass
class Inputs:
    model: Model
    stream: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    meta: AttentionMeta
    params: SamplingTensors


@functools.lru_cache(maxsize=1)
def make_model(name: str) -> Model:
    layers, hidden, intermediate, num_q, num_kv, head_dim, vocabulary = MODELS[name]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16).mul_(shape[-1] ** -0.5)

    cache = (20000, 16, num_kv, head_dim)
    made = [
        Layer(
            random((num_q + 2 * num_kv) * head_dim, hidden), random(hidden, num_q * head_dim),
            random(2 * intermediate, hidden), random(hidden, intermediate),
            torch.zeros(cache, device=DEVICE, dtype=torch.bfloat16),
            torch.zeros(cache, device=DEVICE, dtype=torch.bfloat16),
        )
        for _ in range(layers)
    ]  # fmt: skip
    ones = torch.ones(hidden, device=DEVICE, dtype=torch.bfloat16)
    return Model(made, ones, random(vocabulary, hidden), torch.randn(8192, head_dim, device=DEVICE))


def make_inputs(name: str, rows: int, length: int, seed: int) -> Inputs:
    _, hidden, _, num_q, num_kv, head_dim, _ = MODELS[name]
    blocks = -(-length // 16)
    tables = torch.randperm(20000, device=DEVICE)[: rows * blocks].int().view(rows, blocks)
    lengths = torch.full((rows,), length, dtype=torch.int32, device=DEVICE)
    starts = torch.arange(rows + 1, dtype=torch.int32, device=DEVICE)
    workspace = make_workspace(rows, num_q, num_kv, head_dim, DEVICE)
    positions = lengths.long() - 1
    slots = tables[:, -1].long() * 16 + positions % 16
    zero, one = torch.zeros(rows, device=DEVICE), torch.ones(rows, device=DEVICE)
    params = SamplingTensors(
        zero, one, zero.int(), zero, zero.long(), zero, zero, one, all_greedy=True
    )  # fmt: skip
    # The bound on the length is the model's, as in a captured graph that must serve any length.
    meta = AttentionMeta(tables, lengths, starts, rows, 1, 8192, workspace)
    stream = torch.randn(rows, hidden, device=DEVICE, dtype=torch.bfloat16)
    return Inputs(make_model(name), stream, positions, slots, meta, params)


def step(name: str, inputs: Inputs) -> torch.Tensor:
    _, _, _, num_q, num_kv, head_dim, _ = MODELS[name]
    model, stream = inputs.model, inputs.stream.clone()
    for layer in model.layers:
        qkv = norm_linear(stream, model.norm, EPS, layer.qkv)
        q = rope_and_store(
            qkv, inputs.positions, model.cos_sin, inputs.slots, layer.k_cache, layer.v_cache, num_q, num_kv
        )
        out = paged_attention(q, layer.k_cache, layer.v_cache, inputs.meta, head_dim**-0.5)
        linear_add(out.view(out.shape[0], -1), layer.o, stream)
        linear_add(norm_linear_silu_and_mul(stream, model.norm, EPS, layer.gate_up), layer.down, stream)
    logits = linear(rms_norm(stream, model.norm, EPS), model.head)
    return sample(logits, inputs.params, inputs.positions).ids


def groups() -> Iterator[Group]:
    for name, rows, length in BATCHES:
        layers, hidden, intermediate, num_q, num_kv, head_dim, vocabulary = MODELS[name]
        weights = layers * hidden * (2 * (num_q + num_kv) * head_dim + 3 * intermediate) + vocabulary * hidden
        keys = 2 * layers * rows * length * num_kv * head_dim
        yield Group(
            op="step",
            shape=f"{name} B{rows} S{length}",
            variants=[
                Variant("pdl", functools.partial(step, name)),
                Variant("no-pdl", functools.partial(step, name), None, {"SHOAL_PDL": "0"}),
            ],
            make=functools.partial(make_inputs, name, rows, length),
            answer=None,
            bytes=2.0 * (weights + keys),
            flops=2.0 * rows * weights,
        )
