"""Whether cuBLASLt has better kernels for products of many tokens than PyTorch gets: ``python -m bench.kernels.library``.

All kernels that the library has for a product, far more than its heuristic offers, against the one that PyTorch gets. Such
products run at the GPU's power limit, where the kernel that takes the least energy is the fastest; so the best of a short
look run for a while each, and the last ones in turns with PyTorch's. Kernels are named by their settings, for PyTorch offers
no way to choose one: this says what that costs.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.conditions import conditions, write

PRODUCTS = ("2048x28672x4096", "1024x28672x4096")
WEIGHTS_BYTES = 300 << 20  # so many matrices in turn that none stays in L2
LOOKED, KEPT = 300, 40  # after the first and the second look
FINAL, TURNS = 6, 7
# Numbers of cublasLt.h.
F32, BF16, COMPUTE_F32 = 0, 14, 68
TRANSPOSE_A = 3  # of a product's description
HOPPER, STAGES = 66, 35  # the family of Hopper's kernels; "as many stages as fit"
TILE, CUSTOM, STAGES_ID, CLUSTER = 1, 5, 6, 8  # of an algorithm's settings
TILE_IDS = 6  # of an algorithm's capabilities
CLUSTERS, CUSTOMS = range(2, 20), range(8)
WORKSPACE_BYTES = 1 << 10  # these kernels count their tiles in it


@dataclass(frozen=True)
class Kernel:
    """A kernel's settings; what their numbers mean changes with the library's version."""

    tile: int
    cluster: int
    custom: int


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t."""

    _fields_ = (("data", ctypes.c_uint64 * 8),)


class Checked(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", Algorithm),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


class Library:
    """cuBLASLt as PyTorch has loaded it."""

    def __init__(self) -> None:
        major = (torch.version.cuda or "").split(".")[0]
        self.calls = ctypes.CDLL(f"libcublasLt.so.{major}")
        self.calls.cublasLtGetVersion.restype = ctypes.c_size_t
        torch.cuda.synchronize()  # makes the context that a handle is of
        self.handle = ctypes.c_void_p(torch.cuda.current_blas_handle())  # holds one of cuBLASLt

    def __call__(self, name: str, *arguments: object) -> None:
        if status := getattr(self.calls, "cublasLt" + name)(*arguments):
            raise RuntimeError(f"cublasLt{name}: status {status}")

    def layout(self, rows: int, columns: int) -> ctypes.c_void_p:
        """Of a matrix of bfloat16 whose columns lie one after another."""
        made = ctypes.c_void_p()
        sizes = (ctypes.c_uint64(rows), ctypes.c_uint64(columns), ctypes.c_int64(rows))
        self("MatrixLayoutCreate", ctypes.byref(made), BF16, *sizes)
        return made


class Product:
    """out [T, N] = x [T, K] weight [N, K]^T: to cuBLAS out^T = weight x^T, its matrices' columns being our rows."""

    def __init__(self, library: Library, tokens: int, width: int, depth: int) -> None:
        self._library = library
        self._what = ctypes.c_void_p()
        library("MatmulDescCreate", ctypes.byref(self._what), COMPUTE_F32, F32)
        yes = ctypes.c_int32(1)
        library("MatmulDescSetAttribute", self._what, TRANSPOSE_A, ctypes.byref(yes), ctypes.c_size_t(4))
        self._layouts = [library.layout(*s) for s in ((depth, width), (depth, tokens), (width, tokens))]
        self._workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")

    def kernels(self) -> Iterator[tuple[Kernel, Algorithm]]:
        """All that the library has for this product."""
        for tile, cluster, custom in itertools.product(self._tiles(), CLUSTERS, CUSTOMS):
            kernel = Kernel(tile, cluster, custom)
            if algorithm := self._algorithm(kernel):
                yield kernel, algorithm

    def _family(self) -> Algorithm:
        made = Algorithm()
        types = (COMPUTE_F32, F32, BF16, BF16, BF16, BF16)
        self._library("MatmulAlgoInit", self._library.handle, *types, HOPPER, ctypes.byref(made))
        return made

    def _tiles(self) -> list[int]:
        """The numbers of tiles that the library has; one that it does not have crashes its check."""
        family, size = ctypes.byref(self._family()), ctypes.c_size_t()
        self._library("MatmulAlgoCapGetAttribute", family, TILE_IDS, None, size, ctypes.byref(size))
        numbers = (ctypes.c_uint32 * (size.value // 4))()
        self._library("MatmulAlgoCapGetAttribute", family, TILE_IDS, numbers, size, ctypes.byref(size))
        return list(numbers)

    def _algorithm(self, kernel: Kernel) -> Algorithm | None:
        """None if the library does not have `kernel` for this product."""
        made, checked = self._family(), Checked()
        settings = {TILE: kernel.tile, STAGES_ID: STAGES, CUSTOM: kernel.custom, CLUSTER: kernel.cluster}
        for setting, value in settings.items():
            size = ctypes.c_uint16 if setting == CLUSTER else ctypes.c_uint32
            self._library(
                "MatmulAlgoConfigSetAttribute", ctypes.byref(made), setting, ctypes.byref(size(value)),
                ctypes.c_size_t(ctypes.sizeof(size)),
            )  # fmt: skip
        a, b, d = self._layouts
        refused = self._library.calls.cublasLtMatmulAlgoCheck(
            self._library.handle, self._what, a, b, d, d, ctypes.byref(made), ctypes.byref(checked)
        )
        return None if refused or checked.state or checked.workspace > WORKSPACE_BYTES else made

    def run(self, algorithm: Algorithm, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
        one, zero = ctypes.c_float(1.0), ctypes.c_float(0.0)
        a, b, d = self._layouts
        w, i, o = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (weight, x, out))
        self._library(
            "Matmul", self._library.handle, self._what, ctypes.byref(one), w, a, i, b, ctypes.byref(zero),
            o, d, o, d, ctypes.byref(algorithm), ctypes.c_void_p(self._workspace.data_ptr()),
            ctypes.c_size_t(WORKSPACE_BYTES), ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        )  # fmt: skip


class Case:
    """One product's inputs: x [T, K], weights [N, K], out [T, N]."""

    def __init__(self, library: Library, tokens: int, width: int, depth: int) -> None:
        self.x = torch.randn(tokens, depth, device="cuda", dtype=torch.bfloat16)
        count = max(2, -(-WEIGHTS_BYTES // (2 * width * depth)))
        self.weights = [
            torch.randn(width, depth, device="cuda", dtype=torch.bfloat16) * 0.02 for _ in range(count)
        ]
        self.out = self.x.new_empty(tokens, width)
        self.answer = self.x @ self.weights[0].t()
        self.product = Product(library, tokens, width, depth)

    def once(self, algorithm: Algorithm, turn: int) -> None:
        self.product.run(algorithm, self.x, self.weights[turn % len(self.weights)], self.out)

    def by(self, algorithm: Algorithm) -> None:
        for turn in range(len(self.weights)):
            self.once(algorithm, turn)

    def by_torch(self) -> None:
        for weight in self.weights:
            torch.mm(self.x, weight.t(), out=self.out)

    def is_right(self, algorithm: Algorithm) -> bool:
        self.out.zero_()
        self.once(algorithm, 0)
        return torch.allclose(self.out, self.answer, atol=0.1, rtol=0.02)


def look(case: Case, algorithms: Sequence[Algorithm], times: int) -> list[float]:
    """Median microseconds of each, one after another, so many times over all of them, once they are loaded."""
    for algorithm in algorithms:
        case.once(algorithm, 0)
    took: list[list[float]] = [[] for _ in algorithms]
    for turn in range(times):
        for first in range(0, len(algorithms), 256):
            part = algorithms[first : first + 256]
            events = [torch.cuda.Event(enable_timing=True) for _ in range(len(part) + 1)]
            events[0].record()
            for place, algorithm in enumerate(part):
                case.once(algorithm, turn + place)
                events[place + 1].record()
            torch.cuda.synchronize()
            for place, (begin, end) in enumerate(itertools.pairwise(events)):
                took[first + place].append(1e3 * begin.elapsed_time(end))
    return [statistics.median(each) for each in took]


def sustained_us(body: Callable[[], None], seconds: float) -> float:
    """Microseconds of a captured `body`, over the second half of that time."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in "be")
    with torch.cuda.stream(torch.cuda.Stream()):
        body()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            body()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        half = max(int(500 * seconds / begin.elapsed_time(end)), 1)
        for turn in range(2 * half):
            if turn == half:
                begin.record()
            graph.replay()
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) * 1e3 / half


def measure(library: Library, tokens: int, width: int, depth: int, seconds: float) -> dict[str, Any]:
    """The last kernels' microseconds, turn by turn, beside PyTorch's."""
    case = Case(library, tokens, width, depth)
    kernels = dict(case.product.kernels())
    found = len(kernels)
    for kept, times in ((LOOKED, 1), (KEPT, 5)):
        took = dict(zip(kernels, look(case, list(kernels.values()), times), strict=True))
        kernels = {kernel: kernels[kernel] for kernel in sorted(took, key=lambda k: took[k])[:kept]}
    kernels = {kernel: algorithm for kernel, algorithm in kernels.items() if case.is_right(algorithm)}
    bodies = {kernel: partial(case.by, algorithm) for kernel, algorithm in kernels.items()}
    heavy = {kernel: sustained_us(body, seconds / 2) for kernel, body in bodies.items()}
    last = sorted(heavy, key=lambda kernel: heavy[kernel])[:FINAL]
    turns: dict[Kernel | None, list[float]] = {kernel: [] for kernel in (None, *last)}
    for _ in range(TURNS):
        for kernel, all_turns in turns.items():
            body = case.by_torch if kernel is None else bodies[kernel]
            all_turns.append(sustained_us(body, seconds) / len(case.weights))
    us = {kernel: statistics.median(all_turns) for kernel, all_turns in turns.items()}
    rows = [
        {
            "kernel": "torch" if kernel is None else vars(kernel), "us": round(us[kernel], 1),
            "turns": [round(turn, 1) for turn in turns[kernel]],
        }
        for kernel in sorted(us, key=lambda kernel: us[kernel])
    ]  # fmt: skip
    return {"tokens": tokens, "width": width, "depth": depth, "kernels": found, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", nargs="+", default=PRODUCTS, metavar="TOKENSxOUTPUTSxINPUTS")
    parser.add_argument("--seconds", type=float, default=0.1, help="a turn of a kernel")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU")
    library = Library()
    version = library.calls.cublasLtGetVersion()
    report = conditions("python -m bench.kernels.library") | {"cublaslt": version, "products": []}
    for name in arguments.products:
        tokens, width, depth = map(int, name.split("x"))
        found = measure(library, tokens, width, depth, arguments.seconds)
        print(f"{name}: {found['kernels']} kernels")
        for row in found["rows"]:
            rate = 2 * tokens * width * depth / row["us"] / 1e6
            print(f"  {row['us']:8.1f} us {rate:5.0f} TFLOP/s  {row['kernel']}  {row['turns']}")
        report["products"].append(found)
        if arguments.json:
            write(arguments.json, report)


if __name__ == "__main__":
    main()
