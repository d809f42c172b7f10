"""Rotary position embedding tables, equal to transformers' (modeling_rope_utils) for every type.

All arithmetic is float32 in the order in which transformers does it, so that greedy tokens agree.

Type "dynamic" (NTK-aware, the base grows with the sequence): transformers rotates everything that one forward pass
computes with the base for the sequence's length at that moment. So a generated token at position p uses the base
for length p + 1, and all of a prompt's tokens use the base for the prompt's length. `rope_table` holds the first
rule for every position; up to max_position_embeddings the base does not grow, so prompts of up to that length
follow it too. For longer prompts `prompt_rows` gives the second rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding. Fields that a type does not use keep their defaults."""

    type: str
    theta: float
    dim: int
    """Dimensions of a head, all of which rotate."""
    max_position: int
    """max_position_embeddings: where type "dynamic" begins to stretch."""
    factor: float = 1.0
    original_max_position: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


def rope_table(rope: RopeConfig, length: int, device: torch.device) -> Tensor:
    """cos and sin for positions 0 .. length - 1: float32 [length, dim], the first half cos, the second sin."""
    positions = torch.arange(length, dtype=torch.int64, device=device)
    if rope.type == "dynamic":
        return _rows(positions, _dynamic_inv_freq(rope, positions + 1), 1.0)
    inv_freq, scale = _fixed_inv_freq(rope, device)
    return _rows(positions, inv_freq, scale)


def prompt_rows(rope: RopeConfig, positions: Tensor, prompt_length: int) -> Tensor:
    """Type "dynamic": the table's rows for a prompt's positions int64 [T], as its length has them: [T, dim]."""
    lengths = torch.full((1,), prompt_length, dtype=torch.int64, device=positions.device)
    return _rows(positions, _dynamic_inv_freq(rope, lengths), 1.0)


def _rows(positions: Tensor, inv_freq: Tensor, scale: float) -> Tensor:
    angles = positions[:, None].float() * inv_freq
    return torch.cat((angles.cos() * scale, angles.sin() * scale), dim=-1)


def _exponents(dim: int, device: torch.device) -> Tensor:
    return torch.arange(0, dim, 2, dtype=torch.int64, device=device).float() / dim


def _fixed_inv_freq(rope: RopeConfig, device: torch.device) -> tuple[Tensor, float]:
    """Inverse frequencies [dim / 2] and the factor on cos and sin, for types that do not grow."""
    powers = rope.theta ** _exponents(rope.dim, device)
    if rope.type == "yarn":
        return _yarn_inv_freq(rope, powers)
    inv_freq = 1.0 / powers
    if rope.type == "linear":
        inv_freq = inv_freq / rope.factor
    elif rope.type == "llama3":
        inv_freq = _llama3_inv_freq(rope, inv_freq)
    return inv_freq, 1.0


def _dynamic_inv_freq(rope: RopeConfig, lengths: Tensor) -> Tensor:
    """Inverse frequencies [N, dim / 2] for sequences of the given lengths, int64 [N]."""
    stretch = rope.factor * lengths.clamp(min=rope.max_position) / rope.max_position - (rope.factor - 1)
    base = rope.theta * stretch ** (rope.dim / (rope.dim - 2))
    return 1.0 / (base[:, None] ** _exponents(rope.dim, lengths.device))


def _llama3_inv_freq(rope: RopeConfig, inv_freq: Tensor) -> Tensor:
    """Long wavelengths are divided by the factor, short ones kept, those between interpolated (Llama 3.1)."""
    wavelengths = 2 * math.pi / inv_freq
    longest = rope.original_max_position / rope.low_freq_factor
    shortest = rope.original_max_position / rope.high_freq_factor
    scaled = torch.where(wavelengths > longest, inv_freq / rope.factor, inv_freq)
    smooth = (rope.original_max_position / wavelengths - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    smoothed = (1 - smooth) * scaled / rope.factor + smooth * scaled
    between = ~(wavelengths < shortest) * ~(wavelengths > longest)
    return torch.where(between, smoothed, scaled)


def _yarn_inv_freq(rope: RopeConfig, powers: Tensor) -> tuple[Tensor, float]:
    """YaRN (arXiv:2309.00071): interpolate slow dimensions, extrapolate fast ones, ramp between."""
    low, high = _yarn_range(rope)
    ramp = (torch.arange(rope.dim // 2, dtype=torch.float32, device=powers.device) - low) / (high - low)
    keep = 1 - torch.clamp(ramp, 0, 1)
    inv_freq = (1.0 / (rope.factor * powers)) * (1 - keep) + (1.0 / powers) * keep
    return inv_freq, _yarn_attention_factor(rope)


def _yarn_range(rope: RopeConfig) -> tuple[float, float]:
    """The first and last dimension of the ramp."""

    def dimension(rotations: float) -> float:
        return (rope.dim * math.log(rope.original_max_position / (rotations * 2 * math.pi))) / (
            2 * math.log(rope.theta)
        )

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    return low, high + 0.001 if low == high else high


def _yarn_attention_factor(rope: RopeConfig) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(rope.factor) + 1.0 if rope.factor > 1 else 1.0

    if rope.mscale and rope.mscale_all_dim:
        return mscale(rope.mscale) / mscale(rope.mscale_all_dim)
    return mscale(1.0)
