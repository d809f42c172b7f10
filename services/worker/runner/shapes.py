"""Sizes of steps: how many tokens share a step with decodes, and for which sizes CUDA graphs are captured.

A captured step is padded to its size, so there are enough sizes that padding costs less than it saves. No torch here.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

# Measured on an H200 with an 8B and a 0.6B shape: see docs/log.md.
SMALL_MIXED_STEP = 512
"""Tokens: about from here on a step is no longer bound by reading the weights."""
_LARGEST_LEAST = 2048
_FULL_PRODUCTS = 32e9  # tokens times weights: 100 us at 640 TFLOP/s
_FEW_DECODES, _TOKENS_PER_DECODE, _MIXED_TILE = 32, 8, 1024


def least_mixed_step(weights_per_layer: float) -> int:
    """Tokens of a step of prompt chunks beside few decodes of many to come, on a GPU, by its weights of a layer's products.

    Chunks lengthen a layer by 30 us however few tokens they have: their attention and the waits between kernels. Products
    of a large model take longer than that anyway; a small model has more tokens share it. A power of two.
    """
    least = SMALL_MIXED_STEP
    while least < _LARGEST_LEAST and least * weights_per_layer < _FULL_PRODUCTS:
        least *= 2
    return least


def mixed_step_tokens(num_decodes: int, num_to_decode: int, least: int) -> int:
    """How many tokens a step of prompt chunks beside so many decodes best has, the decodes included.

    Whoever decodes waits for the step's prompts, and a step of decodes alone is bound by reading the weights:
    prompts spread over more steps give more decodes a ride on weights that are read anyway. Many decodes fill a
    small step by themselves, so the step grows with them. Sizes are whole tiles of the products.

    `num_to_decode` decode, or will beside these as soon as their prompts are done; a step has `least` tokens where
    they are many.
    """
    if num_to_decode <= _FEW_DECODES:
        return SMALL_MIXED_STEP
    if num_decodes <= _FEW_DECODES:
        return least
    return max(least, -(-num_decodes * _TOKENS_PER_DECODE // _MIXED_TILE) * _MIXED_TILE)


class StepShape(NamedTuple):
    """A captured step's size, padding included. Its decode rows are followed by `chunks` rows of prompt chunks."""

    tokens: int
    """Of decodes and chunks together."""
    decodes: int
    chunks: int

    @property
    def rows(self) -> int:
        return self.decodes + self.chunks


def few_sample(tokens: int, rows: int) -> bool:
    """Whether so few `rows` of a step sample, padding included, that its last layer runs for them alone.

    Picking them out takes a GPU two or three small copies, about 5 us. Half of a layer's products cost more, but in steps
    of few tokens, which wait for the weights alone; those it delays by a thousandth.
    """
    return 2 * rows <= tokens


def decode_sizes(
    max_batch_size: int, split_batch_size: int, grow_step_size: int, max_slots: int
) -> list[int]:
    """Every size up to split_batch_size, then every grow_step_size-th; none above max_batch_size or max_slots."""
    largest = min(max_batch_size, max_slots)
    sizes = {*range(1, min(split_batch_size, largest) + 1), *range(split_batch_size, largest, grow_step_size)}
    return sorted(sizes | {largest}) if largest else []


# Launching a step's kernels one by one takes the host 9 ms for 32 layers. A lone chunk of a prompt meets an idle device,
# which would wait for that; 512 tokens keep it busy longer.
_LONE_CHUNKS = (16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
MAX_CHUNKS = 8
"""Prompt chunks in a captured step; a row without tokens costs next to nothing."""
_FEWEST_DECODES = 8
_TILE = 128
"""Tokens: products take as long as if their tokens were padded to whole tiles, so padding to these costs little."""


def mixed_shapes(
    max_step_tokens: int, max_model_len: int, max_decodes: int, least: int = SMALL_MIXED_STEP
) -> list[StepShape]:
    """Steps of one chunk alone, and of chunks beside up to `max_decodes` decodes, in ascending order.

    Beside decodes up to what `mixed_step_tokens` asks for: larger steps keep the device busy while the host launches.
    """
    longest = min(max_step_tokens, max_model_len)
    shapes = [StepShape(size, 0, 1) for size in _LONE_CHUNKS if size <= longest]
    decodes, many = min(_FEWEST_DECODES, max_decodes), _FEW_DECODES + 1
    while decodes:
        largest = min(mixed_step_tokens(decodes, many, least), max_step_tokens)
        sizes = range(_TILE, largest + 1, _TILE)
        shapes += [StepShape(size, decodes, MAX_CHUNKS) for size in sizes if decodes < size]
        decodes = min(2 * decodes, max_decodes) if decodes < max_decodes else 0
    return sorted(shapes)


def fit_size(sizes: Sequence[int], count: int) -> int | None:
    """The smallest of ascending `sizes` that holds `count`, or None if there is none."""
    place = bisect.bisect_left(sizes, count)
    return sizes[place] if place < len(sizes) else None


def fit_shape(shapes: Sequence[StepShape], tokens: int, decodes: int, chunks: int) -> StepShape | None:
    """The first of ascending `shapes` that holds such a step, or None if there is none, or only with much padding."""
    for shape in shapes[bisect.bisect_left(shapes, (tokens, 0, 0)) :]:
        if shape.tokens - tokens >= 2 * _TILE:
            return None
        if shape.decodes >= decodes and shape.chunks >= chunks:
            return shape
    return None
