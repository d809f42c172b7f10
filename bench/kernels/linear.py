"""Products of few tokens: each layer's shape in the role it has in a decode step."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F

from bench.kernels.measure import Group, Variant
from kernels.activation.reference import silu_and_mul
from kernels.linear.launch import Gemv, Product, Skinny
from kernels.linear.table import run_few, shape_key
from kernels.norm.kernel import rms_norm_triton

DEVICE = "cuda"
EPS = 1e-5
# (name, outputs, inputs, role); a role says what is fused around the product. Over ranks the norm before qkv is not: it
# comes with the sum over ranks.
SHAPES = {
    "8b": [
        ("qkv", 6144, 4096, "norm"),
        ("o", 4096, 4096, "residual"),
        ("gate_up", 14336, 4096, "silu"),
        ("down", 4096, 14336, "residual"),
        ("head", 128256, 4096, "plain"),
    ],
    "0.6b": [
        ("qkv", 4096, 1024, "norm"),
        ("o", 1024, 2048, "residual"),
        ("gate_up", 3072, 1024, "silu"),
        ("down", 1024, 3072, "residual"),
        ("head", 151936, 1024, "plain"),
    ],
    "32b-tp4": [
        ("qkv", 1792, 5120, "bias"),
        ("o", 5120, 1280, "plain"),
        ("gate_up", 6912, 5120, "silu"),
        ("down", 5120, 6912, "plain"),
        ("head", 38016, 5120, "plain"),
    ],
}
TOKENS = (1, 2, 4, 8, 16, 32, 64)
GEMVS = [
    Gemv(1, 1024, 8), Gemv(1, 1024, 4), Gemv(1, 2048, 4), Gemv(1, 4096, 8), Gemv(2, 1024, 4), Gemv(2, 2048, 8),
    Gemv(4, 512, 4), Gemv(4, 1024, 8), Gemv(1, 16384, 8),
]  # fmt: skip
SKINNIES = [
    (16, 256, 4, 4, False), (16, 512, 3, 4, False), (32, 128, 4, 4, False), (32, 256, 3, 4, False),
    (32, 256, 4, 8, False), (64, 128, 4, 4, False), (64, 64, 6, 4, True), (64, 128, 4, 4, True),
    (128, 64, 4, 8, True),
]  # fmt: skip


@dataclass
class Inputs:
    x: torch.Tensor
    weight: torch.Tensor
    norm: torch.Tensor
    bias: torch.Tensor
    residual: torch.Tensor
    kept: torch.Tensor


def make_inputs(tokens: int, width: int, depth: int, role: str, seed: int) -> Inputs:
    generator = torch.Generator(DEVICE).manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=DEVICE, dtype=torch.bfloat16)

    rows = 2 * width if role == "silu" else width
    residual = random(tokens, width)
    weight = random(rows, depth).mul_(depth**-0.5)
    norm, bias = 1 + 0.1 * random(depth), random(width)
    return Inputs(random(tokens, depth), weight, norm, bias, residual, residual.clone())


def answer(role: str, inputs: Inputs) -> torch.Tensor:
    x, weight = inputs.x.double(), inputs.weight.double()
    if role in ("norm", "silu"):
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * inputs.norm.double()
    out = x @ weight.T
    if role == "silu":
        return silu_and_mul(out)
    added = {"bias": inputs.bias, "residual": inputs.residual}.get(role)
    return out if added is None else out + added.double()


def library(role: str, inputs: Inputs) -> torch.Tensor:
    """The product by the library, with kernels of our own around it."""
    from kernels.activation.kernel import silu_and_mul_triton

    x = rms_norm_triton(inputs.x, inputs.norm, EPS) if role in ("norm", "silu") else inputs.x
    if role == "residual":
        return inputs.residual.addmm_(x, inputs.weight.t())
    out = F.linear(x, inputs.weight, inputs.bias if role == "bias" else None)
    return silu_and_mul_triton(out) if role == "silu" else out


def few(role: str, config: Gemv | Skinny, inputs: Inputs) -> torch.Tensor:
    normed, silu = role in ("norm", "silu"), role == "silu"
    width = inputs.weight.shape[0] // (2 if silu else 1)
    out = inputs.residual if role == "residual" else inputs.x.new_empty(inputs.x.shape[0], width)
    x, norm = inputs.x, inputs.norm if normed else None
    if norm is not None and isinstance(config, Skinny):
        x, norm = rms_norm_triton(x, norm, EPS), None
    bias = inputs.bias if role == "bias" else None
    return run_few(Product(x, inputs.weight, out, bias, norm, EPS, silu, role == "residual"), config)


def restore(inputs: Inputs) -> None:
    inputs.residual.copy_(inputs.kept)


def even_span(width: int, programs: int) -> int:
    """Outputs per program, in whole eights, that spread `width` evenly over about `programs`."""
    return -(-width // (programs * 8)) * 8


def skinnies(width: int, block_t: int, silu: bool) -> Iterator[Skinny]:
    """Tiles of powers of two, and spans that fill the 132 SMs once or twice."""
    for n, k, stages, warps, left in SKINNIES:
        yield Skinny(block_t, n, k, stages, warps, left, n, 0)
    for programs in (132, 264):
        span = even_span(width, programs)
        n = max(1 << (span - 1).bit_length(), 64)
        room = (
            200_000 // (2 * (n * (2 if silu else 1) + block_t)) // (programs // 132)
        )  # columns in shared memory
        for k in (64, 128, 256) if span <= 128 else ():
            stages = min(room // k, 6)
            for ahead in (0, 256) if stages >= 2 else ():
                yield Skinny(block_t, n, k, stages, 4, True, span, ahead)


def splits(width: int, depth: int, block_t: int) -> Iterator[Skinny]:
    """Wide spans whose inputs 2 to 16 programs share, so that the programs fill the 132 SMs once or twice.

    With t tokens and spans of n outputs the programs read t / n times the weights' bytes of x besides, from L2: what
    narrow spans lose by. No span under 40 for that, and none for which a tile of 128 is too narrow.
    """
    for per_sm, count in itertools.product((1, 2), (2, 4, 8, 16)):
        span = even_span(width, 132 * per_sm // count)
        if not 40 <= span <= 128:
            continue
        n = 64 if span <= 64 else 128
        room = 220_000 // per_sm // (2 * (n + block_t))  # columns in shared memory
        k = 128 if room >= 3 * 128 and depth % (count * 128) == 0 else 64
        for ahead in (256, 1024):
            yield Skinny(block_t, n, k, min(room // k, 6), n // 16, True, span, ahead, count)


def block_of(tokens: int) -> int:
    """Tokens of a tile: the matrix units' least, 16, or the next powers of two."""
    return 16 if tokens <= 16 else 32 if tokens <= 32 else 64


def named(role: str, config: Gemv | Skinny) -> Variant:
    kind = "gemv" if isinstance(config, Gemv) else "skinny"
    fields = asdict(config)
    name = kind + " " + "/".join(str(int(value)) for value in fields.values())
    return Variant(name, functools.partial(few, role, config), {"kind": kind, **fields})


def variants(role: str, tokens: int, depth: int, width: int) -> Iterator[Variant]:
    yield Variant("library", functools.partial(library, role), {"kind": "library"})
    configs: list[Gemv | Skinny] = []
    if tokens == 1:
        configs += [config for config in GEMVS if config.block_k < 2 * depth]
    block_t = block_of(tokens)
    configs += [
        config
        for config in skinnies(width, block_t, role == "silu")
        if not (block_t == 64 and config.block_k * config.stages >= 1024)
        and (tokens > 1 or config.block_n <= 32)
    ]
    for config in configs:
        variant = named(role, config)
        yield variant
        if tokens == 1 and config == GEMVS[0]:
            yield Variant(variant.name + " no-pdl", variant.run, None, {"SHOAL_PDL": "0"})


def group_of(
    model: str, name: str, width: int, depth: int, role: str, tokens: int, tried: list[Variant]
) -> Group:
    """A product of a model's decode step, by each of the variants `tried`."""
    rows = 2 * width if role == "silu" else width
    return Group(
        op="linear",
        shape=f"{model} {name} T{tokens}",
        variants=tried,
        make=functools.partial(make_inputs, tokens, width, depth, role),
        answer=functools.partial(answer, role),
        bytes=2.0 * (rows * depth + tokens * (depth + width)),
        flops=2.0 * tokens * rows * depth,
        key=shape_key(width, depth, role == "silu"),
        tokens=tokens,
        prepare=restore,
    )


def groups() -> Iterator[Group]:
    for model, shapes in SHAPES.items():
        for name, width, depth, role in shapes:
            for tokens in TOKENS:
                if (model, name) == ("32b-tp4", "qkv") and tokens > 1:
                    continue  # in parts, which count with the kernel that reads them: `few` chooses
                tried = list(variants(role, tokens, depth, width))
                yield group_of(model, name, width, depth, role, tokens, tried)
    yield from ragged()


def ragged() -> Iterator[Group]:
    """Odd shapes, checked and not timed."""
    for tokens in (1, 3, 19, 33):
        for role in ("plain", "norm", "silu", "residual"):
            yield Group(
                op="linear",
                shape=f"ragged {role} T{tokens}",
                variants=list(variants(role, tokens, 1000, 333)),
                make=functools.partial(make_inputs, tokens, 333, 1000, role),
                answer=functools.partial(answer, role),
                prepare=restore,
                timed=False,
            )
