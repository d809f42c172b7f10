"""Products of few outputs: K split over programs, beside the library and what the GPU's table asks for now.

A short run, for shapes whose choice in the table is open: `python -m bench.kernels --out FILE --only splits`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.kernels.linear import DEVICE, SHAPES, block_of, group_of, named, splits, variants
from bench.kernels.measure import Group, Variant
from kernels.linear.table import choose

TOKENS = (32, 64, 16)
# By what splitting K may win: the products of the 32B over 4 ranks, then those of the 8B.
MODELS = ("32b-tp4", "8b")
NAMES = ("qkv", "down", "o")


def tried(role: str, tokens: int, width: int, depth: int) -> list[Variant]:
    now = choose(torch.device(DEVICE), tokens, width, depth, False)
    configs = [*([now] if now else []), *splits(width, depth, block_of(tokens))]
    library = next(variants(role, tokens, depth, width))
    return [
        library,
        *{variant.name: variant for variant in (named(role, config) for config in configs)}.values(),
    ]


def groups() -> Iterator[Group]:
    for model in MODELS:
        shapes = {name: shape for name, *shape in SHAPES[model]}
        for name in NAMES:
            width, depth, role = shapes[name]
            for tokens in TOKENS:
                yield group_of(model, name, width, depth, role, tokens, tried(role, tokens, width, depth))
