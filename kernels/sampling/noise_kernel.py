"""`kernels.sampling.noise` inside Triton kernels; the integers are the same bit by bit."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.sampling.noise import GOLDEN, SPLITMIX, TRIPLE32

_GOLDEN: tl.constexpr = tl.constexpr(GOLDEN)
_SPLITMIX_0: tl.constexpr = tl.constexpr(SPLITMIX[0])
_SPLITMIX_1: tl.constexpr = tl.constexpr(SPLITMIX[1])
_TRIPLE32_0: tl.constexpr = tl.constexpr(TRIPLE32[0])
_TRIPLE32_1: tl.constexpr = tl.constexpr(TRIPLE32[1])
_TRIPLE32_2: tl.constexpr = tl.constexpr(TRIPLE32[2])


@triton.jit
def _mix64(x):
    x = (x ^ (x >> 30)) * _SPLITMIX_0
    x = (x ^ (x >> 27)) * _SPLITMIX_1
    return x ^ (x >> 31)


@triton.jit
def row_key(seed, token_index):
    """64-bit key of a row; see `kernels.sampling.noise`."""
    return _mix64(_mix64(seed.to(tl.uint64) + _GOLDEN) ^ token_index.to(tl.uint64))


@triton.jit
def uniform_noise(ids, key):
    """v in (0, 1) for token `ids` under a row's `key`: the less, the larger the noise."""
    h = ids.to(tl.uint32) ^ key.to(tl.uint32)
    h ^= h >> 17
    h *= _TRIPLE32_0
    h += (key >> 32).to(tl.uint32)
    h ^= h >> 11
    h *= _TRIPLE32_1
    h ^= h >> 15
    h *= _TRIPLE32_2
    h ^= h >> 14
    return tl.minimum((h.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)


@triton.jit
def gumbel_of(v):
    """Gumbel noise -log(-log(1 - v))."""
    series = v * (1.0 + v * (0.5 + v * (0.3333333333333333 + v * 0.25)))
    return -tl.log(tl.where(v < 0.015625, series, -tl.log(1.0 - v)))


@triton.jit
def gumbel_noise(ids, key):
    """Gumbel noise for token `ids` under a row's `key`."""
    return gumbel_of(uniform_noise(ids, key))
