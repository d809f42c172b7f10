"""Counter-based Gumbel noise: a pure function of (seed, token index, token id).

A draw is `argmax(z + noise)`, so it depends on nothing but the row's own scores, seed and token index: not on the
batch, the worker or what was drawn before. The integer part is bit-exact between this file and the Triton kernel.

1. Row key: 64 bits, SplitMix64's finaliser over the seed, xor the token index, and the finaliser again.
2. Token hash: 32 bits, the `triple32` permutation of (id xor the key's low word), with the key's high word added
   after the first round, so that rows with nearby keys are not shifted copies of each other.
3. v = (hash + 1/2) / 2^32 and noise = -log(-log(1 - v)). Large noise comes from small v, where float32 is finest,
   so the winners' order is resolved to about 1e-5 even in a vocabulary of 2^17 equal tokens.
"""

from __future__ import annotations

import torch

GOLDEN = 0x9E3779B97F4A7C15
SPLITMIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
TRIPLE32 = (0xED5AD4BB, 0xAC4C1B51, 0x31848BAB)

# v is at most 1 - 2^-24 and at least 2^-33, so the noise lies in [-2.82, 22.88]: a token more than this below the
# highest score cannot be drawn.
REACH = 26.0


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _shift_right(x: torch.Tensor, distance: int, bits: int) -> torch.Tensor:
    """Logical right shift of a signed tensor (PyTorch's `>>` keeps the sign)."""
    return (x >> distance) & ((1 << (bits - distance)) - 1)


def _mix64(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift_right(x, 30, 64)) * _signed(SPLITMIX[0], 64)
    x = (x ^ _shift_right(x, 27, 64)) * _signed(SPLITMIX[1], 64)
    return x ^ _shift_right(x, 31, 64)


def row_keys(seed: torch.Tensor, token_index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Low and high word of each row's key, as int32 bit patterns, from int64 `seed` [R] and `token_index` [R]."""
    key = _mix64(_mix64(seed + _signed(GOLDEN, 64)) ^ token_index)
    return key.to(torch.int32), (key >> 32).to(torch.int32)


def token_hash(ids: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """32-bit hash (as int32) of int32 token `ids` under the row keys `low`, `high` (broadcast)."""
    h = ids ^ low
    h ^= _shift_right(h, 17, 32)
    h *= _signed(TRIPLE32[0], 32)
    h += high
    h ^= _shift_right(h, 11, 32)
    h *= _signed(TRIPLE32[1], 32)
    h ^= _shift_right(h, 15, 32)
    h *= _signed(TRIPLE32[2], 32)
    h ^= _shift_right(h, 14, 32)
    return h


def gumbel_noise(ids: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise, float32, for int32 token `ids` under the row keys `low`, `high` (broadcast)."""
    v = token_hash(ids, low, high).view(torch.uint32).float()
    v = v.add_(0.5).mul_(2.0**-32).clamp_(max=1.0 - 2.0**-24)
    # -log(1 - v) loses its digits for small v, which is where the winners are: use the series there.
    series = v * (1.0 + v * (0.5 + v * (1.0 / 3.0 + v * 0.25)))
    exponential = torch.where(v < 2.0**-6, series, -torch.log(1.0 - v))
    return -torch.log(exponential)
