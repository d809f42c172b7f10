"""Matrix products split over ranks.

Column-parallel: each rank computes some of the output features. Row-parallel: each rank holds some of the input
features, and the ranks' results are summed.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kernels.linear import (
    linear,
    linear_add,
    linear_parts,
    linear_silu_and_mul,
    norm_linear,
    norm_linear_silu_and_mul,
)
from kernels.rank_sum import FEW_TOKENS, kept_rows, rank_sum_rms_norm
from services.worker.errors import ConfigError
from services.worker.layers.build import Build
from services.worker.layers.norm import RMSNorm
from services.worker.parallel.group import TensorParallel


@dataclass(frozen=True, slots=True)
class Columns:
    """Output features that one tensor of the checkpoint contributes: `rows` in all, this rank's from `start`."""

    name: str
    rows: int
    start: int
    count: int


def split_columns(name: str, rows: int, tp: TensorParallel) -> Columns:
    return Columns(name, rows, tp.rank * share(name, rows, tp), share(name, rows, tp))


def share(what: str, size: int, tp: TensorParallel) -> int:
    """One rank's part of `size`. Raises ConfigError if the ranks do not divide it."""
    if size % tp.size:
        raise ConfigError(f"--tp {tp.size} does not divide {size}, the size of {what}")
    return size // tp.size


class Linear:
    """A product with the rows of several checkpoint tensors side by side; no collective."""

    def __init__(self, build: Build, parts: list[Columns], in_features: int, bias: bool) -> None:
        out_features = sum(part.count for part in parts)
        self.weight = build.matrix(out_features, in_features)
        self.bias = build.empty(out_features) if bias else None
        begin = 0
        for part in parts:
            out = self.weight.narrow(0, begin, part.count)
            build.source.read(f"{part.name}.weight", (part.rows, in_features), out, 0, part.start)
            if self.bias is not None:
                bias_out = self.bias.narrow(0, begin, part.count)
                build.source.read(f"{part.name}.bias", (part.rows,), bias_out, 0, part.start)
            begin += part.count

    def __call__(self, x: Tensor) -> Tensor:
        """x [T, in_features] to [T, this rank's output features]."""
        return linear(x, self.weight, self.bias)

    def parts(self, x: Tensor) -> Tensor:
        """What `rope_and_store` takes of the product: it, or float32 parts [S, T, this rank's output features] of it."""
        return linear_parts(x, self.weight, self.bias)

    def silu_and_mul(self, x: Tensor) -> Tensor:
        """The product of a fused gate and up projection, activated: [T, half the output features]."""
        return linear_silu_and_mul(x, self.weight)

    def of_norm(self, stream: Tensor, norm: RMSNorm) -> Tensor:
        """The product of the normalised residual stream, in one launch where few tokens make that faster."""
        return norm_linear(stream, norm.weight, norm.eps, self.weight, self.bias)

    def silu_and_mul_of_norm(self, stream: Tensor, norm: RMSNorm) -> Tensor:
        """`silu_and_mul` of the normalised residual stream."""
        return norm_linear_silu_and_mul(stream, norm.weight, norm.eps, self.weight)


class RowParallelLinear:
    """A product whose input features are split over the ranks; the result is whole on every rank."""

    def __init__(
        self, build: Build, name: str, out_features: int, in_features: int, bias: bool, area: int
    ) -> None:
        """`area`: where its sums go in memory that ranks share; a layer's products take 0 and 1, in their order."""
        self._tp = build.tp
        self._area = area
        local = share(name, in_features, build.tp)
        self.weight = build.matrix(out_features, local)
        build.source.read(
            f"{name}.weight", (out_features, in_features), self.weight, 1, build.tp.rank * local
        )
        self.bias = build.whole(f"{name}.bias", out_features) if bias else None

    def add_and_normalise(self, x: Tensor, stream: Tensor, norm: RMSNorm) -> Tensor:
        """Adds the product of x [T, this rank's input features] to the residual stream; returns that normalised.

        The result [T, H] is whole on every rank. Where ranks share memory, each keeps the stream of some of the tokens
        only, and the next such call overwrites the result.
        """
        bias = self.bias if self._tp.rank == 0 else None  # it must count once in the sum over ranks
        memory = self._tp.shared_memory(stream)
        if memory is None:
            return norm(self._tp.all_reduce(linear(x, self.weight, bias)), stream)
        linear(x, self.weight, bias, out=memory.partial(stream, self._area))
        return rank_sum_rms_norm(memory, stream, norm.weight, norm.eps, self._area)

    @property
    def can_add(self) -> bool:
        """Whether `add_to` works: the result is whole without other ranks or a bias."""
        return self._tp.size == 1 and self.bias is None

    def add_to(self, stream: Tensor, x: Tensor) -> None:
        """Adds the product of x to the residual stream in place."""
        linear_add(x, self.weight, stream)


def stream_rows(stream: Tensor, rows: Tensor, tp: TensorParallel) -> Tensor:
    """A copy of the rows int64 [R] of a residual stream [T, H], whole on every rank: [R, H].

    Exact where `add_and_normalise` left each rank the stream of some tokens only: it sums one rank's row and zeros.
    """
    memory = tp.shared_memory(stream)
    if memory is None or len(stream) <= FEW_TOKENS:
        return stream.index_select(0, rows)
    return tp.all_reduce(kept_rows(memory, stream, rows))
